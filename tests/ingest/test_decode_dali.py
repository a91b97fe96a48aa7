"""DALI gives the frames that PyAV gives, or says that it cannot; what is not sure on a GPU is refused there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from flat_colours import GREYS, VIVID, columns, samples_of
from numbered_frames import CHOICES, UNEVEN, numbers
from videos import BLOCK, cut_start, drop_packets, make_flat_video, make_video, read_number

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import SourceError
from deltactl.ingest.sources import VideoFile
from deltactl.ingest.units import UnitLog, UnitPlan
from deltactl.ingest.video import colours
from deltactl.ingest.video.colours import Colours
from deltactl.ingest.video.cutting import ClipCutter, CutConfig
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import WORN_BYTES, DaliDecoder
from deltactl.ingest.video.h264 import may_have_fields
from deltactl.ingest.video.timestamps import Video
from deltactl.ingest.video.videos import VideoClipMaker


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
    # 1.6 is the difference of the two in chroma at edges; BT.709 taken for BT.601 gives 3.9 here.
    assert np.abs(image.astype(int) - expected)[2 * BLOCK :].mean() < 2


def test_dali_leaves_colours_that_are_not_known(tmp_path: Path, dali: DaliDecoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(colours.LUMA, 1)
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


def refused(path: Path, wanted: Sequence[int] = (0,)) -> str:
    """Return why DALI on a GPU leaves a video, "" where it would try; nothing of it needs a GPU."""
    with Video(path) as video:
        try:
            DaliDecoder("gpu").prepare(video, wanted)
        except SourceError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b-frames.mp4", "h264", {}),
        ("b-frames.mkv", "hevc", {}),
        ("open groups.mp4", "h264", {"bf": "3", "g": "20", "x264-params": "open-gop=1:scenecut=0"}),
        ("baseline.mp4", "h264", {"profile": "baseline"}),
        ("own scaling lists.mp4", "h264", {"x264-params": "cqm=jvt"}),
    ],
)
def test_progressive_h264_and_hevc_are_for_a_gpu(tmp_path: Path, name: str, codec: str, options: dict[str, str]):
    assert refused(make_video(tmp_path / name, codec, options=options), [0, 31, 59]) == ""


@pytest.mark.parametrize("codec", ["vp8", "vp9", "av1", "mpeg4", "mjpeg"])
def test_codecs_that_may_hide_pictures_or_are_not_known_are_not_for_a_gpu(tmp_path: Path, codec: str):
    options = (
        {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"} if codec == "vp9" else {}
    )
    path = make_video(tmp_path / "a.mkv", codec, options=options, frames=20)
    assert refused(path) == f"DALI on a GPU does not decode {codec}"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "h264", {"x264-params": "tff=1"}),
        ("a.mkv", "h264", {"x264-params": "bff=1"}),
        ("a.mp4", "hevc", {"x265-params": "log-level=none:interlace=tff"}),
    ],
)
def test_interlaced_video_is_not_for_a_gpu(tmp_path: Path, name: str, codec: str, options: dict[str, str]):
    path = make_video(tmp_path / name, codec, options=options, frames=20)
    assert refused(path) == "DALI on a GPU gives wrong frames of interlaced video"
    with Video(path) as video:
        assert numbers(PyAVDecoder(), video, [7]) == {7: 7}


def test_a_stream_that_may_go_on_with_fields_is_not_for_a_gpu(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", options={"x264-params": "fake-interlaced=1"}, frames=20)
    assert refused(path) == "DALI on a GPU may give wrong frames of video that may go on interlaced"
    with Video(path) as video:
        configuration = bytes(video.decoder.extradata)
    assert may_have_fields(configuration)
    assert may_have_fields(configuration[:12])
    assert may_have_fields(b"")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_packets_that_are_not_shown_are_not_for_a_gpu(tmp_path: Path, codec: str):
    whole = make_video(tmp_path / "whole.mp4", codec)
    assert refused(whole) == ""
    assert "packets that are not shown" in refused(cut_start(whole, tmp_path / "cut.mp4", frames=17))


def test_frames_of_odd_size_or_deeper_colour_are_not_for_a_gpu(tmp_path: Path):
    with Video(make_video(tmp_path / "a.mp4", frames=4)) as video:
        video.height, video.width = 97, 161
        assert "not 97 × 161" in (DaliDecoder("gpu").refusal(video) or "")
    with Video(make_video(tmp_path / "odd.webm", "vp9", frames=4, width=161, height=97)) as video:
        assert DaliDecoder("cpu").refusal(video) is None
    deep = make_video(tmp_path / "deep.mp4", "hevc", pixel_format="yuv420p10le", frames=4)
    assert refused(deep) == "DALI does not convert yuv420p10le frames"


def test_a_decoder_of_a_whole_frame_is_not_taken_for_a_cut_one(tmp_path: Path):
    # 90 rows are coded as 96: DALI would find the decoder that it keeps for videos of 96 rows.
    with Video(make_video(tmp_path / "whole.mp4")) as whole, Video(make_video(tmp_path / "cut.mp4", height=90)) as cut:
        decoder = DaliDecoder("gpu")
        decoder.prepare(cut, [0])
        decoder._count_decoder(decoder.prepare(whole, [0]))
        with pytest.raises(SourceError, match="keeps for frames of another size"):
            decoder.prepare(cut, [0])
        decoder.prepare(whole, [0])
        other = DaliDecoder("gpu")
        other._count_decoder(other.prepare(cut, [0]))
        other._count_decoder(other.prepare(whole, [0]))  # coded as 96 rows: what shows 90 is not looked at


def test_a_process_is_worn_by_the_decoders_that_dali_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deltactl.ingest.video.decode_dali.WORN_BYTES", 10 * 20 * 96 * 160 * 3 // 2)
    with Video(make_video(tmp_path / "whole.mp4")) as whole, Video(make_video(tmp_path / "cut.mp4", height=90)) as cut:
        decoder = DaliDecoder("gpu")
        same, other = decoder.prepare(whole, [0]), decoder.prepare(cut, [0])
        for _ in range(50):
            decoder._count_decoder(same)  # one decoder serves all frames that are not cut
        assert not decoder.worn
        for _ in range(9):
            decoder._count_decoder(other)  # of these DALI makes one for each
        assert not decoder.worn
        decoder._count_decoder(other)
        assert decoder.worn


def test_a_dali_that_does_not_start_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tries = []

    def fail(device_id: int | None) -> None:
        tries.append(device_id)
        raise RuntimeError("Critical error when building pipeline:\nlibnvcuvid.so.1 is missing")

    monkeypatch.setattr("deltactl.ingest.video.decode_dali._build", fail)
    monkeypatch.setattr("deltactl.ingest.video.decode_dali.has_nvdec", lambda: True)
    monkeypatch.setattr("deltactl.ingest.video.cutting.gpu_count", lambda: 2)
    cutter = ClipCutter(CutConfig("folder", str(tmp_path), 1, 8, FrameSize.of(512), 95, 0), dali=True)
    cutter.start(3)
    decoder = cutter._dali
    assert decoder is not None
    with Video(make_video(tmp_path / "a.mp4", frames=4)) as video:
        assert decoder.refusal(video) is None
        with pytest.raises(SourceError, match=r"DALI does not start on this GPU: .*libnvcuvid"):
            list(decoder.frames(video, [0]))
        assert decoder.refusal(video) is not None
    assert tries == [1]


def test_dali_refuses_what_it_does_not_decode_and_goes_on(tmp_path: Path, dali: DaliDecoder):
    with Video(make_video(tmp_path / "a.mp4", "h264")) as video, pytest.raises(SourceError, match="h264"):
        list(dali.frames(video, [0]))
    with Video(make_video(tmp_path / "b.webm", "vp9")) as video:
        assert numbers(dali, video, [4]) == {4: 4}


class StandIn:
    """Does to pieces what DALI does on a GPU by its source: range by the label, BT.601 whatever the label says,
    chroma interpolated between its samples."""

    def __init__(self) -> None:
        self._fed: dict[str, list[np.ndarray]] = {}

    def feed_input(self, name: str, data: list[np.ndarray]) -> None:
        self._fed[name] = data

    def run(self) -> tuple[StandIn]:
        return (self,)

    def as_cpu(self) -> list[np.ndarray]:
        return [self._decode(data, places) for data, places in zip(self._fed["file"], self._fed["frames"], strict=True)]

    def _decode(self, data: np.ndarray, places: np.ndarray) -> np.ndarray:
        with av.open(io.BytesIO(data.tobytes())) as file:
            frames = [(frame.to_ndarray(), frame.color_range, frame.width) for frame in file.decode(video=0)]
        return np.stack([self._rgb(*frames[place]) for place in places])

    def _rgb(self, planes: np.ndarray, levels: int, width: int) -> np.ndarray:
        height = planes.shape[0] * 2 // 3
        chroma = [part.reshape(height // 2, width // 2) for part in np.split(planes[height:].reshape(-1), 2)]
        full = [cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in chroma]
        samples = np.stack([planes[:height], *full], -1)
        matrix = Colours(5, levels == 2).rgb_of_samples
        return np.clip(np.rint(samples @ matrix[:, :3].T + matrix[:, 3]), 0, 255).astype(np.uint8)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> DaliDecoder:
    """The decoder as it is on a GPU, with a stand-in for the GPU."""
    monkeypatch.setattr("deltactl.ingest.video.decode_dali._build", lambda device: StandIn())
    monkeypatch.setattr("deltactl.ingest.video.decode_dali.has_nvdec", lambda: True)
    return DaliDecoder("gpu")


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "hevc.mp4", "hevc.mkv"])
def test_what_a_gpu_is_given_comes_out_as_from_pyav(tmp_path: Path, gpu: DaliDecoder, name: str):
    with Video(make_video(tmp_path / name, name.split(".")[0])) as video:
        for wanted in CHOICES:
            assert numbers(gpu, video, wanted) == {index: index for index in wanted}
        expected = dict(PyAVDecoder().frames(video, range(60)))
        for index, image in gpu.frames(video, range(60)):
            assert np.abs(image.astype(int) - expected[index]).mean() < 2


@pytest.mark.parametrize(
    "meant", [Colours(space, full) for space in (1, 2, 6, 7, 9) for full in (False, True)], ids=str
)
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_what_a_gpu_is_given_has_the_colours_of_pyav(tmp_path: Path, gpu: DaliDecoder, codec: str, meant: Colours):
    path = make_flat_video(tmp_path / "a.mp4", codec, samples_of(VIVID, meant), space=meant.space, full=meant.full)
    with Video(path) as video:
        ((_, expected),) = PyAVDecoder().frames(video, [2])
        ((_, image),) = gpu.frames(video, [2])
    assert np.abs(columns(image) - columns(expected)).max() <= 2


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "hevc.mp4", "hevc.mkv"])
def test_a_gpu_gives_the_frames_that_pyav_gives_by_seeking(tmp_path: Path, name: str):
    decoder = DaliDecoder("gpu")
    with Video(make_video(tmp_path / name, name.split(".")[0], width=320, height=192)) as video:
        for wanted in CHOICES:
            assert numbers(decoder, video, wanted) == {index: index for index in wanted}
        expected = dict(PyAVDecoder().frames(video, range(60)))
        for index, image in decoder.frames(video, range(60)):
            assert np.abs(image.astype(int) - expected[index]).mean() < 2
            for block in range(10):  # the black and white blocks of the number, away from their edges
                inside = (slice(8, 24), slice(32 * block + 8, 32 * block + 24))
                assert np.abs(image[inside].astype(int) - expected[index][inside]).max() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize(
    "meant", [Colours(space, full) for space in (1, 2, 6, 7, 9) for full in (False, True)], ids=str
)
def test_a_gpu_gives_the_colours_that_pyav_gives_or_none(tmp_path: Path, codec: str, meant: Colours):
    rgb = np.concatenate([VIVID, GREYS])
    path = make_flat_video(tmp_path / "a.mp4", codec, samples_of(rgb, meant), space=meant.space, full=meant.full)
    with Video(path) as video:
        ((_, expected),) = PyAVDecoder().frames(video, [2])
        try:
            ((_, image),) = DaliDecoder("gpu").frames(video, [2])
        except SourceError as error:
            assert "so saturated that DALI clips them" in str(error)
            assert meant.full
        else:
            assert np.abs(columns(image) - columns(expected)).max() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("hidden.webm", "vp9", {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.mp4", "av1", {}),
        ("fields.mp4", "h264", {"x264-params": "tff=1"}),
        ("fields.mp4", "hevc", {"x265-params": "log-level=none:interlace=tff"}),
        ("refreshed.mp4", "h264", {"bf": "0", "g": "20", "x264-params": "intra-refresh=1"}),
        ("open.mp4", "h264", {"bf": "3", "g": "20", "x264-params": "open-gop=1:scenecut=0"}),
        ("pyramid.mp4", "h264", {"bf": "3", "g": "250", "x264-params": "b-pyramid=strict"}),
    ],
)
def test_a_gpu_refuses_what_is_not_sure_or_gives_it_right(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
):
    with Video(make_video(tmp_path / name, codec, options=options, width=320, height=192)) as video:
        for wanted in CHOICES:
            try:
                assert numbers(DaliDecoder("gpu"), video, wanted) == {index: index for index in wanted}
            except SourceError as error:
                assert "DALI" in str(error)


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_gpu_counts_frames_as_the_demux_does(tmp_path: Path, codec: str):
    decoder = DaliDecoder("gpu")
    with Video(make_video(tmp_path / "uneven.mp4", codec, times=UNEVEN, width=320, height=192)) as video:
        assert numbers(decoder, video, [0, 31, 59]) == {0: 0, 31: 31, 59: 59}
    whole = make_video(tmp_path / "whole.mp4", codec, width=320, height=192)
    with Video(cut_start(whole, tmp_path / "cut.mp4", frames=17)) as video:
        try:
            assert numbers(decoder, video, [0, 20, 42]) == {0: 17, 20: 37, 42: 59}
        except SourceError as error:
            assert "packets that are not shown" in str(error)


@pytest.mark.gpu
@pytest.mark.slow
def test_three_hundred_videos_of_mixed_sizes_stay_within_their_share_of_the_gpu(tmp_path: Path):
    import torch

    def used() -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free

    sizes = [(320, 192), (340, 256), (854, 480), (640, 360), (1280, 720), (480, 270)]
    paths = [
        make_video(tmp_path / f"{number}.mp4", ("h264", "hevc")[number % 2], frames=12, width=width, height=height)
        for number in range(12)
        for width, height in [sizes[number // 2]]
    ]
    settings = CutConfig("folder", str(tmp_path), clips=1, frames=8, size=FrameSize.of(512), quality=95, seed=0)
    before = most = used()
    maker = VideoClipMaker(ClipCutter(settings, dali=True), children=1, time_limit_seconds=60)
    maker.start(0)
    names = [paths[number % 12].name for number in range(300)]
    log, count = UnitLog(), 0
    for clip in maker.clips(UnitPlan("000000", tuple(map(VideoFile, names)), 300), log):
        count += 1
        most = max(most, used())
        assert clip.meta.decoder == "dali" or log.left_by_dali
    maker.close()
    assert count == 300
    # The decoders that a process may keep, what they are in the middle of, and its context.
    assert most - before < WORN_BYTES + 4_000_000_000
