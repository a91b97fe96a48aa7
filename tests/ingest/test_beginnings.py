"""Where decoding can begin is told by the packets, whatever their container says of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ffmpeg_program import Case, make, shown
from videos import drop_packets, make_video, read_number

from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video

GROUPS = "log-level=none:keyint=20:min-keyint=20:bframes=3:scenecut=0"


def mark_keyframes(path: Path, numbers: Sequence[int]) -> Path:
    """Make an MP4 say that these samples (from 0) are its keyframes, no more than it has; without any, that all are."""
    data = bytearray(path.read_bytes())
    if not numbers:
        path.write_bytes(data.replace(b"stss", b"free"))
        return path
    at = data.find(b"stss") + 8
    assert struct.unpack_from(">I", data, at)[0] >= len(numbers)
    struct.pack_into(f">{1 + len(numbers)}I", data, at, len(numbers), *(number + 1 for number in numbers))
    path.write_bytes(data)
    return path


def shown_numbers(video: Video) -> list[int]:
    return [read_number(image) for _, image in PyAVDecoder().frames(video, range(len(video.times)))]


@pytest.mark.parametrize("wanted", [[0, 5, 22], [40, 41, 59], [3]])
@pytest.mark.parametrize(
    "marked", [[30], [0], [12], [0, 12], []], ids=["too late", "too few", "wrong", "one wrong", "all"]
)
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "mpeg4"])
def test_a_wrong_list_of_keyframes_loses_no_frame(tmp_path: Path, codec: str, marked: list[int], wanted: list[int]):
    path = mark_keyframes(make_video(tmp_path / "a.mp4", codec), marked)
    with Video(path) as video:
        assert len(video.times) == 60
        assert video.undecodable == 0
        assert {number: read_number(image) for number, image in PyAVDecoder().frames(video, wanted)} == {
            number: number for number in wanted
        }


def test_dali_is_given_frames_before_the_first_marked_keyframe(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    path = mark_keyframes(make_video(tmp_path / "a.mp4", "vp9"), [30])
    with Video(path) as video:
        assert [read_number(image) for _, image in DaliDecoder("cpu").frames(video, [5, 22, 45])] == [5, 22, 45]


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts"])
def test_pictures_shown_before_the_first_keyframe_but_built_on_it_are_frames(tmp_path: Path, name: str):
    whole = make_video(tmp_path / "whole.mp4", "hevc", options={"x265-params": f"{GROUPS}:radl=2:open-gop=0"})
    with Video(whole) as video:
        begin = sorted({*video.start_of.tolist()})[1]
        first = shown_numbers(video)[int(np.flatnonzero(video.packet_of >= begin)[0])]
    with Video(drop_packets(whole, tmp_path / name, packets=begin)) as video:
        assert video.undecodable == 0
        assert len(video.leading) == 2
        assert shown_numbers(video) == list(range(first, 60))


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts"])
def test_pictures_built_on_what_is_cut_off_are_none(tmp_path: Path, name: str):
    whole = make_video(tmp_path / "whole.mp4", "hevc", options={"x265-params": f"{GROUPS}:open-gop=1"})
    with Video(whole) as video:
        begin = next(number for number, packet in enumerate(video.packets()) if number and packet.is_keyframe)
    with Video(drop_packets(whole, tmp_path / name, packets=begin)) as video:
        assert video.undecodable > 0
        numbers = shown_numbers(video)
        assert numbers == list(range(numbers[0], 60))


def test_vvc_shows_every_frame(tmp_path: Path):
    pytest.importorskip("imageio_ffmpeg")
    path = make(tmp_path, Case("vvc", "mp4"))
    with Video(path) as video:
        assert len(video.times) == len(shown(path).frames) == 16
        assert len(video.leading) > 0
        assert shown_numbers(video) == list(range(16))
