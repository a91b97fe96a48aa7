"""Each wanted frame is the one whose number is drawn into it, whatever the codec, container, decoder or order."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from ffmpeg_program import ffmpeg
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import CHOICES, UNEVEN, numbers
from videos import cut_start, make_video, read_number

from deltactl.configs.ingest import IngestConfig
from deltactl.errors import SourceError
from deltactl.ingest.plan import plan
from deltactl.ingest.settle import resolved
from deltactl.ingest.video.decode_av import AbsentFrameError, PyAVDecoder, plan_runs
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video
from deltactl.ingest.video.videos import VideoClipMaker


@pytest.mark.parametrize("kept_bytes", [64_000_000, 0], ids=["in-memory", "read-again"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264.mp4", "h264"),
        ("h264.ts", "h264"),
        ("h264.avi", "h264"),
        ("h264.h264", "h264"),
        ("hevc.mkv", "hevc"),
        ("vp8.webm", "vp8"),
        ("vp9.webm", "vp9"),
        ("av1.mp4", "av1"),
        ("mpeg4.avi", "mpeg4"),
        ("mpeg4.mp4", "mpeg4"),
        ("mjpeg.avi", "mjpeg"),
        ("mpeg2.mpg", "mpeg2video"),
    ],
)
def test_pyav_gives_the_wanted_frames(tmp_path: Path, name: str, codec: str, kept_bytes: int):
    decoder = PyAVDecoder()
    with Video(make_video(tmp_path / name, codec), kept_bytes=kept_bytes) as video:
        for wanted in CHOICES:
            assert numbers(decoder, video, wanted) == {index: index for index in wanted}


@pytest.mark.parametrize(
    "options",
    [
        {"bf": "3", "g": "20", "x264-params": "open-gop=1:scenecut=0"},
        {"bf": "0", "g": "20", "x264-params": "intra-refresh=1"},
        {"bf": "3", "g": "250", "x264-params": "b-pyramid=strict"},
    ],
    ids=["open groups", "intra refresh", "b-pyramid"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_leaving_out_packets_changes_no_pixel(tmp_path: Path, name: str, options: dict[str, str]):
    path = make_video(tmp_path / name, options=options, rate=30)
    decoder = PyAVDecoder()
    with Video(path) as video, Video(path, by_decoding=True) as counted:
        whole = dict(decoder.frames(counted, range(60)))
        for wanted in CHOICES:
            for index, image in decoder.frames(video, wanted):
                assert np.array_equal(image, whole[index])


def test_frames_of_uneven_times_and_of_edit_lists_are_the_right_ones(tmp_path: Path):
    decoder = PyAVDecoder()
    with Video(make_video(tmp_path / "uneven.mp4", times=UNEVEN)) as video:
        assert numbers(decoder, video, [0, 30, 59]) == {0: 0, 30: 30, 59: 59}
    with Video(cut_start(make_video(tmp_path / "whole.mp4"), tmp_path / "cut.mp4", frames=17)) as video:
        assert numbers(decoder, video, [0, 20, 42]) == {0: 17, 20: 37, 42: 59}


@given(st.sets(st.integers(0, 99), min_size=1, max_size=20), st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_runs_hold_each_wanted_packet_and_start_at_its_keyframe(wanted: set[int], gaps: list[int]):
    video = object.__new__(Video)
    keys = np.minimum(np.cumsum([0, *gaps]), 99)
    video.packet_of = np.arange(100)
    video.start_of = keys[np.searchsorted(keys, video.packet_of, side="right") - 1]
    runs = plan_runs(video, sorted(wanted))
    for index in wanted:
        (run,) = [run for run in runs if run.first <= index <= run.last]
        assert run.first <= video.start_of[index]
    assert all(before.last < after.first for before, after in itertools.pairwise(runs))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.mkv", "vp9")])
def test_pixels_are_taken_as_square_by_both_decoders(tmp_path: Path, name: str, codec: str):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"wide-{name}"
    ffmpeg("-i", make_video(tmp_path / name, codec), "-c", "copy", "-aspect", "80:33", path)
    with av.open(str(path)) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
    dali = DaliDecoder("cpu")
    with Video(path) as video:
        for decoder in (PyAVDecoder(), dali) if dali.refusal(video) is None else (PyAVDecoder(),):
            ((_, image),) = decoder.frames(video, [7])
            assert image.shape == (96, 160, 3)
            assert read_number(image) == 7


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_in_the_metadata_is_applied(tmp_path: Path, rotation: int):
    with Video(make_video(tmp_path / "a.mp4", rotation=rotation)) as video:
        ((_, image),) = PyAVDecoder().frames(video, [7])
    assert image.shape == ((96, 160, 3) if rotation == 180 else (160, 96, 3))
    assert read_number(np.rot90(image, -rotation // 90)) == 7


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "width", "height"),
    [
        ("ten-bit.mp4", "hevc", "yuv420p10le", 160, 96),
        ("grey.mkv", "ffv1", "gray", 160, 96),
        ("odd.mkv", "ffv1", "yuv444p", 161, 97),
        ("rgb.mkv", "ffv1", "bgr0", 160, 96),
    ],
)
def test_every_pixel_format_comes_out_as_8_bit_rgb(
    tmp_path: Path, name: str, codec: str, pixels: str, width: int, height: int
):
    path = make_video(tmp_path / name, codec, pixel_format=pixels, width=width, height=height, frames=12)
    with Video(path) as video:
        ((_, image),) = PyAVDecoder().frames(video, [9])
    assert image.dtype == np.uint8
    assert image.shape == (height, width, 3)
    assert read_number(image) == 9


def test_full_range_video_keeps_black_and_white(tmp_path: Path):
    with Video(make_video(tmp_path / "a.mkv", "mjpeg", frames=4)) as video:
        ((_, image),) = PyAVDecoder().frames(video, [2])
    assert image[2:14, 2:14].mean() == pytest.approx(30, abs=3)
    assert image[18:30, 2:14].mean() == pytest.approx(220, abs=3)


def test_a_damaged_frame_is_an_error_and_so_is_all_that_is_built_on_it(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", options={"bf": "0", "g": "250"})
    with Video(path) as video:
        packet = list(video.packets())[20]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[position + size // 2 : position + size] = bytes(reversed(data[position + size // 2 : position + size]))
    path.write_bytes(data)
    decoder = PyAVDecoder()
    with Video(path) as video:
        assert numbers(decoder, video, [5, 10]) == {5: 5, 10: 10}
        with pytest.raises(SourceError):
            list(decoder.frames(video, [40]))


def test_a_frame_that_the_decoder_does_not_show_is_never_replaced_by_another(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4")
    with Video(path) as video:
        video.pts[30] += 1  # as if the container had announced a time that no decoded frame has
        with pytest.raises(AbsentFrameError, match="frame 30"):
            list(PyAVDecoder().frames(video, [10, 30]))


def test_dali_takes_what_its_device_decodes_rightly(tmp_path: Path):
    with (
        Video(make_video(tmp_path / "a.mp4", "h264")) as known,
        Video(make_video(tmp_path / "b.mkv", "ffv1", pixel_format="gray")) as unknown,
        Video(make_video(tmp_path / "c.webm", "vp9")) as hidden,
    ):
        on_gpu, on_cpu = DaliDecoder("gpu"), DaliDecoder("cpu")
        assert on_gpu.refusal(known) is None
        assert on_gpu.refusal(unknown) is not None
        assert on_gpu.refusal(hidden) is not None
        assert on_cpu.refusal(known) is not None
        assert on_cpu.refusal(hidden) is None


@pytest.mark.parametrize("decoder", ["auto", "pyav", "dali"])
def test_auto_is_pyav_and_dali_is_asked_for(tmp_path: Path, decoder: Literal["auto", "pyav", "dali"]):
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    make_video(tmp_path / "a.mp4", "h264")
    maker = plan(resolved(IngestConfig(source=str(tmp_path), decoder=decoder, out=str(tmp_path / "out")))).maker
    assert isinstance(maker, VideoClipMaker)
    assert maker._cutter.dali is (decoder == "dali")
