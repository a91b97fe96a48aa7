"""Parts of videos: the frames from one moment to another, found by seeking, and nothing read beside them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numbered_frames import numbers
from videos import HEIGHT, WIDTH, make_video, numbered_frame

from deltactl.errors import SourceError
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video, Window

FRAMES, FPS = 120, 10
PARTS = ((0, 1), (0, 40), (1, 4), (29, 31), (30, 60), (59, 62), (61, 119), (90, 120), (119, 120))
"""First frames and those after the last, on and beside keyframes, which are 30 apart."""


def window(first: int, end: int) -> Window:
    return Window((first - 0.5) / FPS, (end - 0.5) / FPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


def long_video(folder: Path, codec: str) -> Path:
    path = folder / f"{codec}.mp4"
    if not path.exists():
        make_video(path, codec=codec, frames=FRAMES, rate=FPS)
    return path


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "mpeg4"])
@pytest.mark.parametrize("kept_bytes", [64_000_000, 0])
def test_a_part_has_its_frames_and_no_others(folder: Path, codec: str, kept_bytes: int) -> None:
    path = long_video(folder, codec)
    for first, end in PARTS:
        with Video(path, window=window(first, end), kept_bytes=kept_bytes) as video:
            np.testing.assert_allclose(video.times, np.arange(first, end) / FPS, atol=1e-4)
            wanted = sorted({0, (end - first) // 2, end - first - 1})
            assert numbers(PyAVDecoder(), video, wanted) == {each: first + each for each in wanted}


def test_only_the_packets_of_the_part_are_read(folder: Path) -> None:
    path = long_video(folder, "h264")
    with av.open(str(path)) as container:
        dts = [packet.dts for packet in container.demux(video=0) if packet.size]
    for first, end in PARTS:
        with Video(path, window=window(first, end)) as video:
            found = [packet.dts for packet in video.packets()]
        assert found == [each for each in dts if found[0] <= each <= found[-1]]
        assert len(found) <= (end - first) + 30 + 4  # from the keyframe before, and what B-frames reorder
        assert video.first_packet == 0


def test_an_open_group_at_the_border_is_whole(folder: Path) -> None:
    path = folder / "open.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"x265-params": "log-level=none:keyint=12:bframes=4:open-gop=1:b-adapt=0"}
        for number in range(48):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        file.mux(stream.encode())
    for first in range(1, 40, 3):
        end = first + 6
        with Video(path, window=window(first, end)) as video:
            assert numbers(PyAVDecoder(), video, range(6)) == {each: first + each for each in range(6)}


def test_a_part_beyond_the_end_or_between_frames_has_none(folder: Path) -> None:
    path = long_video(folder, "h264")
    with Video(path, window=Window(11.96, 20.0)) as video:
        assert len(video.times) == 0
    with Video(path, window=Window(3.01, 3.09)) as video:
        assert len(video.times) == 0


def test_files_without_times_have_no_parts(tmp_path: Path) -> None:
    make_video(tmp_path / "raw.h264", codec="h264", frames=20, rate=FPS)
    with pytest.raises(SourceError, match="its packets carry no times by which a part of a h264 file is found"):
        Video(tmp_path / "raw.h264", window=window(3, 9))


def test_dali_decodes_a_part_as_pyav_does(folder: Path) -> None:
    pytest.importorskip("nvidia.dali")
    path = long_video(folder, "vp9")
    decoder = DaliDecoder("cpu")
    for first, end in ((0, 12), (31, 45), (59, 64)):
        with Video(path, window=window(first, end)) as video:
            wanted = [0, 1, end - first - 1]
            assert numbers(decoder, video, wanted) == {each: first + each for each in wanted}
