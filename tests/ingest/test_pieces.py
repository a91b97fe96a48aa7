"""A frame decoded from a piece of a video is, sample for sample, the frame decoded from the video's start."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_frames import CHOICES, UNEVEN
from videos import cut_start, make_video

from deltactl.errors import SourceError
from deltactl.ingest.video import pieces
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.pieces import Piece, cut_pieces
from deltactl.ingest.video.timestamps import Video

HIDDEN = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "30"}
MATRIX: dict[str, tuple[str, str, dict]] = {
    "vp9": ("a.webm", "vp9", {}),
    "vp9 with hidden pictures": ("a.mkv", "vp9", {"options": HIDDEN}),
    "vp9 with hidden pictures and uneven times": ("a.mp4", "vp9", {"options": HIDDEN, "times": UNEVEN}),
    "vp8": ("a.webm", "vp8", {}),
    "mjpeg": ("a.mkv", "mjpeg", {}),
    "h264 in mp4": ("a.mp4", "h264", {}),
    "h264 in mkv": ("a.mkv", "h264", {}),
    "h264 with uneven times": ("a.mp4", "h264", {"times": UNEVEN}),
    "h264 with open groups": ("a.mp4", "h264", {"options": {"g": "20", "x264-params": "open-gop=1:scenecut=0"}}),
    "h264 refreshed bit by bit": (
        "a.mp4",
        "h264",
        {"options": {"bf": "0", "g": "20", "x264-params": "intra-refresh=1"}},
    ),
    "h264 of one group": ("a.mp4", "h264", {"options": {"g": "250", "x264-params": "b-pyramid=strict"}}),
    "h264 in fragments": ("a.mp4", "h264", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "hevc in mp4": ("a.mp4", "hevc", {}),
    "hevc in mkv": ("a.mkv", "hevc", {"options": {"x265-params": "log-level=none:keyint=20:bframes=3:open-gop=0"}}),
    "hevc with open groups": ("a.mp4", "hevc", {"options": {"x265-params": "log-level=none:keyint=20:open-gop=1"}}),
}


def planes(path: Path) -> list[np.ndarray]:
    """Return Y, Cb and Cr of all frames, decoded from the start."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray() for frame in file.decode(video=0)]


def decoded(piece: Piece) -> dict[int, np.ndarray]:
    """Return Y, Cb and Cr of the wanted frames of a piece, by their numbers in the video."""
    with av.open(io.BytesIO(piece.data.tobytes())) as file:
        frames = [frame.to_ndarray() for frame in file.decode(video=0)]
    return {number: frames[place] for number, place in zip(piece.numbers, piece.positions, strict=True)}


@pytest.mark.parametrize("name", MATRIX)
def test_frames_of_pieces_are_the_frames_of_the_whole(tmp_path: Path, name: str):
    file, codec, settings = MATRIX[name]
    path = make_video(tmp_path / file, codec, **settings)
    whole = planes(path)
    with Video(path) as video:
        for wanted in CHOICES:
            found: dict[int, np.ndarray] = {}
            for piece in cut_pieces(video, list(wanted), most_frames=16):
                assert len(piece.numbers) <= 16
                found |= decoded(piece)
            assert found.keys() == set(wanted)
            for number, samples in found.items():
                assert np.array_equal(samples, whole[number]), number


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_frames_behind_an_edit_list_keep_their_numbers(tmp_path: Path, codec: str):
    path = cut_start(make_video(tmp_path / "whole.mp4", codec), tmp_path / "cut.mp4", frames=17)
    whole = planes(path)
    with Video(path) as video:
        assert len(video.times) == len(whole) == 43
        for wanted in ([0], [42], [0, 1, 20, 42]):
            found = {}
            for piece in cut_pieces(video, wanted, most_frames=16):
                found |= decoded(piece)
            for number in wanted:
                assert np.array_equal(found[number], whole[number])


def test_a_piece_holds_the_packets_from_the_keyframe_to_the_frame_and_no_more(tmp_path: Path):
    with Video(make_video(tmp_path / "a.webm", "vp9", frames=120)) as video:
        (piece,) = cut_pieces(video, [95], most_frames=16)
        assert piece.positions == (5,)
        with av.open(io.BytesIO(piece.data.tobytes())) as file:
            assert sum(bool(packet.size) for packet in file.demux(video=0)) == 6
        near, far = cut_pieces(video, [3, 93], most_frames=16)
        assert (near.numbers, far.numbers) == ((3,), (93,))


def test_pieces_say_full_range_and_the_packets_of_the_video_stay_as_they_were(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4")
    with Video(path) as video:
        before = [(packet.pts, packet.dts, bytes(packet)) for packet in video.packets()]
        (piece,) = cut_pieces(video, [7], most_frames=16)
        assert [(packet.pts, packet.dts, bytes(packet)) for packet in video.packets()] == before
    with av.open(io.BytesIO(piece.data.tobytes())) as file:
        frame = next(file.decode(video=0))
    assert (int(frame.color_range), int(frame.colorspace)) == (2, 6)


def test_packets_that_are_not_kept_are_read_again(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    decoder = DaliDecoder("cpu")
    path = make_video(tmp_path / "a.webm", "vp9")
    with Video(path) as kept, Video(path, kept_bytes=0) as read:
        expected, found = (dict(decoder.frames(video, [0, 7, 58])) for video in (kept, read))
    assert all(np.array_equal(found[number], expected[number]) for number in (0, 7, 58))


@pytest.mark.parametrize("name", ["a.ts", "a.avi"])
def test_files_whose_packets_cannot_be_cut_are_an_error(tmp_path: Path, name: str):
    with Video(make_video(tmp_path / name)) as video, pytest.raises(SourceError):
        cut_pieces(video, [5], most_frames=16)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.webm", "vp9", {}), ("b.webm", "vp9", HIDDEN), ("c.webm", "vp8", {}), ("d.mkv", "mjpeg", {})],
)
def test_dali_gives_the_same_from_pieces_as_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, options: dict[str, str]
):
    pytest.importorskip("nvidia.dali")
    decoder = DaliDecoder("cpu")
    with Video(make_video(tmp_path / name, codec, options=options)) as video:
        by_pieces = {tuple(wanted): dict(decoder.frames(video, list(wanted))) for wanted in CHOICES}
        monkeypatch.setattr(pieces, "JOIN_PACKETS", 1_000_000)  # one piece, from frame 0 on
        (piece,) = decoder.prepare(video, [59]).pieces
        assert piece.positions == (0, 59)
        whole = dict(decoder.frames(video, range(60)))
    for wanted, found in by_pieces.items():
        assert tuple(found) == wanted
        for number, image in found.items():
            assert np.array_equal(image, whole[number])
