"""Orientation, colours, times and the choice of the stream are those of FFmpeg's own program, in every kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ffmpeg_program import Case, Shown, blocks, make, shown

from deltactl.errors import SourceError
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video

pytest.importorskip("imageio_ffmpeg")

CASES = [
    # codecs, containers and colours
    Case("h264", "mp4"),
    Case("h264", "mkv", "bt709"),
    Case("h264", "mov", "bt601", full=True),
    Case("h264", "ts", "bt2020"),
    Case("h264", "flv", "bt709"),
    Case("hevc", "mp4", "bt709", full=True),
    Case("hevc", "mkv", "bt2020"),
    Case("vvc", "mp4"),
    Case("vp8", "webm"),
    Case("vp9", "webm", "bt709"),
    Case("vp9", "mkv", "bt2020", full=True, muted=True),
    Case("av1", "mp4", "bt709"),
    Case("mjpeg", "avi", full=True),
    Case("mjpeg", "mkv"),
    Case("mpeg4", "avi"),
    Case("mpeg2", "ts", "bt709"),
    Case("mpeg2", "vob"),
    Case("mpeg2", "mxf"),
    Case("gif", "gif"),
    # orientations
    Case("h264", "mp4", flip=True),
    Case("h264", "mp4", turn=90),
    Case("h264", "mov", turn=90, flip=True),
    Case("h264", "mkv", turn=180),
    Case("hevc", "mp4", turn=180, flip=True),
    Case("hevc", "mov", turn=270),
    Case("av1", "mp4", turn=270, flip=True),
    Case("vp9", "mp4", turn=90, flip=True, muted=True),
    Case("vp9", "webm", turn=270, muted=True),
    # times
    Case("h264", "mp4", start=-0.5),
    Case("h264", "mov", start=95_000),
    Case("h264", "mkv", start=1.7e9),
    Case("h264", "ts", start=95_443.5),  # the clock of MPEG-TS starts anew
    Case("vp9", "webm", start=1.7e9, muted=True),
    Case("h264", "mp4", cut=0.3),
    Case("hevc", "mp4", cut=0.3, start=1.5),
    Case("h264", "mp4", uneven=True, start=95_000),
    Case("vp9", "webm", uneven=True, muted=True),
    # other streams in the file
    Case("h264", "mp4", extra="cover"),
    Case("h264", "mp4", extra="unknown"),
    Case("h264", "mkv", extra="small"),
    Case("h264", "ts", extra="small"),
    Case("vp9", "webm", extra="small", muted=True),
    Case("av1", "mp4", extra="sound"),
]
LEVELS = 2
"""How far flat colours may be apart."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


def check(decoder: PyAVDecoder | DaliDecoder, video: Video, expected: Shown) -> None:
    found = dict(decoder.frames(video, range(len(video.times))))
    assert len(found) == len(expected.frames)
    for number, frame in enumerate(expected.frames):
        assert found[number].shape == frame.shape
        assert np.abs(blocks(found[number]) - blocks(frame)).max() <= LEVELS, number


@pytest.mark.parametrize("case", CASES, ids=str)
def test_frames_are_those_of_ffmpegs_program(folder: Path, case: Case):
    path = make(folder, case)
    expected = shown(path)
    with Video(path) as video:
        assert video.times == pytest.approx(expected.times, abs=expected.tick)
        check(PyAVDecoder(), video, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.codec in ("vp8", "vp9", "mjpeg")], ids=str)
def test_dalis_frames_are_those_of_ffmpegs_program(folder: Path, case: Case):
    pytest.importorskip("nvidia.dali")
    path, decoder = make(folder, case), DaliDecoder("cpu")
    with Video(path) as video:
        if case.container == "avi":
            assert "not sure in a avi file" in str(decoder.refusal(video))
        elif case.codec == "vp9" and not case.muted:
            with pytest.raises(SourceError, match="so saturated that DALI clips them"):
                list(decoder.frames(video, [0]))
        else:
            check(decoder, video, shown(path))
