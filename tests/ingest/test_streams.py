"""Of several video streams the one that a person would call the video is taken, and no other is touched."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from videos import HEIGHT, WIDTH, make_video, numbered_frame, read_number

from deltactl.errors import SourceError
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.pieces import cut_pieces
from deltactl.ingest.video.streams import best_video_stream
from deltactl.ingest.video.timestamps import Video

DEFAULT, NONE = Disposition.default, Disposition(0)
Stream = tuple[str, tuple[int, int], int, Disposition]
"""Codec, width and height, number of frames, what it is marked as."""
THE_VIDEO: Stream = ("h264", (WIDTH, HEIGHT), 20, NONE)


def make_streams(path: Path, streams: Sequence[Stream]) -> Path:
    """Write a file of several video streams; only those of the usual size show their frames' numbers."""
    encoders = {"h264": "libx264", "vp9": "libvpx-vp9", "mjpeg": "mjpeg", "png": "png"}
    with av.open(str(path), "w") as file:
        made = []
        for codec, (width, height), _, disposition in streams:
            stream = file.add_stream(encoders[codec], rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            stream.codec_context.time_base = Fraction(1, 25)
            stream.disposition = disposition
            made.append(stream)
        for number in range(max(count for _, _, count, _ in streams)):
            for stream, (_, (width, height), count, _) in zip(made, streams, strict=True):
                if number < count:
                    whole = (width, height) == (WIDTH, HEIGHT)
                    image = numbered_frame(number) if whole else np.full((height, width, 3), 99, np.uint8)
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts = number
                    file.mux(stream.encode(frame))
        for stream in made:
            file.mux(stream.encode())
    return path


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    "other",
    [
        ("h264", (64, 48), 20, NONE),
        ("mjpeg", (640, 480), 1, NONE),
        ("mjpeg", (640, 480), 1, DEFAULT),
        ("png", (640, 480), 1, Disposition.attached_pic),
        ("h264", (64, 48), 20, Disposition.visual_impaired),
    ],
    ids=["smaller", "still", "still by default", "cover", "described"],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_the_video_is_taken_wherever_it_stands(tmp_path: Path, container: str, other: Stream, first: bool):
    if container == "mkv" and other[0] == "png":
        pytest.skip("Matroska keeps covers as attachments")
    # FFmpeg marks the first track of an MP4 as the default unless another one is.
    video_stream = (*THE_VIDEO[:3], NONE if container == "mkv" or other[3] == DEFAULT else DEFAULT)
    streams = [other, video_stream] if first else [video_stream, other]
    with Video(make_streams(tmp_path / f"a.{container}", streams)) as video:
        assert (video.height, video.width) == (HEIGHT, WIDTH)
        found = [read_number(image) for _, image in PyAVDecoder().frames(video, [0, 7, 19])]
        assert found == [0, 7, 19]
        video.rewind()
        assert (video.decoder.height, video.decoder.width) == (HEIGHT, WIDTH)
        (piece, *_) = cut_pieces(video, [7], most_frames=16)
        assert piece.numbers == (7,)


def test_the_stream_marked_as_default_goes_before_a_larger_one(tmp_path: Path):
    path = make_streams(tmp_path / "a.mkv", [("h264", (320, 192), 20, NONE), ("h264", (WIDTH, HEIGHT), 20, DEFAULT)])
    with Video(path) as video:
        assert (video.height, video.width) == (HEIGHT, WIDTH)


def test_dali_decodes_the_same_stream(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    path = make_streams(tmp_path / "a.webm", [("vp9", (64, 48), 20, NONE), ("vp9", (WIDTH, HEIGHT), 20, NONE)])
    with Video(path) as video:
        assert [read_number(image) for _, image in DaliDecoder("cpu").frames(video, [3, 18])] == [3, 18]


def with_unknown_codec(path: Path, mark: bytes) -> Path:
    """Give the last stream with this mark in an MP4 a codec that nobody knows."""
    data = path.read_bytes()
    at = data.rfind(mark)
    path.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    return path


def test_a_second_stream_of_unknown_codec_does_no_harm(tmp_path: Path):
    path = make_streams(tmp_path / "a.mp4", [THE_VIDEO, ("h264", (640, 480), 20, NONE)])
    with_unknown_codec(path, b"avc1")
    with av.open(str(path)) as file:
        assert [stream.codec_context is None for stream in file.streams.video] == [False, True]
        assert best_video_stream(file) == 0
    with Video(path) as video:
        assert [read_number(image) for _, image in PyAVDecoder().frames(video, [3, 18])] == [3, 18]


def test_a_video_of_unknown_codec_alone_says_so(tmp_path: Path):
    with pytest.raises(SourceError, match="its codec is not known"):
        Video(with_unknown_codec(make_video(tmp_path / "a.mp4"), b"avc1"))
