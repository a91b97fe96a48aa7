"""Each wanted frame is the one whose number is drawn into it, whatever the codec, container, decoder or order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_timestamps import UNEVEN
from videos import BLOCK, cut_start, drop_packets, make_video, read_number

from deltactl.errors import SourceError
from deltactl.ingest import decode_dali
from deltactl.ingest.decode import Decoder, Decoders
from deltactl.ingest.decode_av import AbsentFrameError, PyAVDecoder, plan_runs
from deltactl.ingest.decode_dali import DaliDecoder
from deltactl.ingest.timestamps import Video

CHOICES: list[Sequence[int]] = [[0], [59], [29, 30, 31], [3, 17, 58], [5, 6, 22, 41, 44, 45], range(60)]


def numbers(decoder: Decoder, video: Video, wanted: Sequence[int]) -> dict[int, int]:
    return {index: read_number(image) for index, image in decoder.frames(video, list(wanted))}


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


# --- DALI ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dali() -> DaliDecoder:
    pytest.importorskip("nvidia.dali")
    return DaliDecoder("cpu")


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "vp9"), ("a.webm", "vp8"), ("a.mkv", "mjpeg")])
def test_dali_gives_the_same_frames_as_pyav(tmp_path: Path, dali: DaliDecoder, name: str, codec: str):
    with Video(make_video(tmp_path / name, codec)) as video:
        for wanted in CHOICES:
            assert numbers(dali, video, wanted) == {index: index for index in wanted}
        expected = dict(PyAVDecoder().frames(video, range(60)))
        for index, image in dali.frames(video, range(60)):
            assert np.abs(image.astype(int) - expected[index]).mean() < 3


def test_dali_counts_frames_as_the_demux_does_with_edit_lists_and_hidden_frames(tmp_path: Path, dali: DaliDecoder):
    options = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
    whole = make_video(tmp_path / "whole.mp4", "vp9", options=options, times=UNEVEN)
    with Video(whole) as video:
        assert numbers(dali, video, [0, 31, 59]) == {0: 0, 31: 31, 59: 59}
    even = make_video(tmp_path / "even.mp4", "vp9", options=options)
    with Video(cut_start(even, tmp_path / "cut.mp4", frames=17)) as video:
        assert numbers(dali, video, [0, 20, 42]) == {0: 17, 20: 37, 42: 59}


def test_dali_applies_rotation(tmp_path: Path, dali: DaliDecoder):
    with Video(make_video(tmp_path / "a.mp4", "vp9", rotation=90)) as video:
        ((_, image),) = dali.frames(video, [7])
    assert read_number(np.rot90(image, -1)) == 7


@pytest.mark.parametrize("space", ["bt709", "bt470bg", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_dali_gives_colours_as_the_video_means_them(tmp_path: Path, dali: DaliDecoder, space: str, levels: str):
    options = {"deadline": "realtime", "cpu-used": "8", "colorspace": space, "color_range": levels}
    with Video(make_video(tmp_path / "a.webm", "vp9", frames=4, options=options)) as video:
        ((_, expected),) = PyAVDecoder().frames(video, [2])
        ((_, image),) = dali.frames(video, [2])
    # 1.6 is the difference of the two in rounding and in chroma at edges; BT.709 taken for BT.601 gives 3.9 here.
    assert np.abs(image.astype(int) - expected)[2 * BLOCK :].mean() < 2


def test_dali_leaves_colours_that_it_cannot_correct(tmp_path: Path, dali: DaliDecoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(decode_dali.LUMA, 1)
    options = {"deadline": "realtime", "cpu-used": "8", "colorspace": "bt709"}
    with Video(make_video(tmp_path / "a.webm", "vp9", frames=4, options=options)) as video:
        with pytest.raises(SourceError, match="colours of space 1"):
            list(dali.frames(video, [2]))
        assert len(dict(PyAVDecoder().frames(video, [2]))) == 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_dali_leaves_a_video_that_begins_without_a_keyframe(tmp_path: Path, dali: DaliDecoder, name: str):
    whole = make_video(tmp_path / "whole.mkv", "vp9", options={"g": "20"})
    with Video(drop_packets(whole, tmp_path / name, packets=5)) as video:
        assert (len(video.times), video.undecodable) == (40, 15)
        assert numbers(PyAVDecoder(), video, [0, 39]) == {0: 20, 39: 59}
        with pytest.raises(SourceError, match="begins without a keyframe"):
            list(dali.frames(video, [0]))
    with Video(whole) as video:
        assert video.undecodable == 0


def test_frames_of_odd_size_are_not_for_a_gpu(tmp_path: Path):
    with Video(make_video(tmp_path / "a.webm", "vp9", frames=4, width=161, height=97)) as video:
        assert "not 97 × 161" in (DaliDecoder("gpu").refusal(video) or "")
        assert DaliDecoder("cpu").refusal(video) is None


def test_a_dali_that_does_not_start_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tries = []

    def fail(device_id: int | None) -> None:
        tries.append(device_id)
        raise RuntimeError("Critical error when building pipeline:\nlibnvcuvid.so.1 is missing")

    monkeypatch.setattr("deltactl.ingest.decode_dali._build", fail)
    monkeypatch.setattr("deltactl.ingest.decode._dali_is_installed", lambda: True)
    decoders = Decoders("dali", device_id=3, gpus=2)
    with Video(make_video(tmp_path / "a.webm", "vp9", frames=4)) as video:
        first, second = decoders.candidates(video)
        with pytest.raises(SourceError, match=r"DALI does not start on this GPU: .*libnvcuvid"):
            list(first.frames(video, [0]))
        assert decoders.candidates(video) == [second]
    assert tries == [1]


def test_dali_refuses_what_it_does_not_decode_and_goes_on(tmp_path: Path, dali: DaliDecoder):
    with Video(make_video(tmp_path / "a.mp4", "h264")) as video, pytest.raises(SourceError, match="h264"):
        list(dali.frames(video, [0]))
    with Video(make_video(tmp_path / "b.webm", "vp9")) as video:
        assert numbers(dali, video, [4]) == {4: 4}


def test_auto_takes_dali_only_with_a_gpu_and_a_codec_it_knows(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    with (
        Video(make_video(tmp_path / "a.mp4", "h264")) as known,
        Video(make_video(tmp_path / "b.mkv", "ffv1", pixel_format="gray")) as unknown,
    ):
        with_gpu, without = Decoders("auto", gpus=1), Decoders("auto", gpus=0)
        assert [each.name for each in with_gpu.candidates(known)] == ["dali", "pyav"]
        assert [each.name for each in with_gpu.candidates(unknown)] == ["pyav"]
        assert [each.name for each in without.candidates(known)] == ["pyav"]
        assert [each.name for each in Decoders("pyav", gpus=1).candidates(known)] == ["pyav"]


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_dali_on_a_gpu_gives_the_same_frames_as_pyav(tmp_path: Path, codec: str):
    decoder = DaliDecoder("gpu")
    with Video(make_video(tmp_path / "a.mp4", codec, width=320, height=192)) as video:
        for wanted in CHOICES:
            assert numbers(decoder, video, wanted) == {index: index for index in wanted}
        expected = dict(PyAVDecoder().frames(video, range(60)))
        for index, image in decoder.frames(video, range(60)):
            assert np.abs(image.astype(int) - expected[index]).mean() < 4


@pytest.mark.gpu
@pytest.mark.parametrize("space", ["bt709", "smpte170m"])
def test_dali_on_a_gpu_gives_colours_as_the_video_means_them(tmp_path: Path, space: str):
    options = {"g": "30", "colorspace": space, "color_primaries": space, "color_trc": space}
    with Video(make_video(tmp_path / "a.mp4", width=320, height=192, frames=4, options=options)) as video:
        ((_, expected),) = PyAVDecoder().frames(video, [2])
        ((_, image),) = DaliDecoder("gpu").frames(video, [2])
    assert np.abs(image.astype(int) - expected)[4 * BLOCK :].mean() < 2


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_dali_on_a_gpu_counts_frames_as_the_demux_does(tmp_path: Path, codec: str):
    decoder = DaliDecoder("gpu")
    with Video(make_video(tmp_path / "uneven.mp4", codec, times=UNEVEN)) as video:
        assert numbers(decoder, video, [0, 31, 59]) == {0: 0, 31: 31, 59: 59}
    with Video(cut_start(make_video(tmp_path / "whole.mp4", codec), tmp_path / "cut.mp4", frames=17)) as video:
        assert numbers(decoder, video, [0, 20, 42]) == {0: 17, 20: 37, 42: 59}
