"""`--decoder dali`: shards do not depend on how videos share a run of DALI, and what it leaves is told and decoded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import make_flat_video, make_video, read_number

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import MissingExtraError, SourceError
from deltactl.ingest.plan import worker_count
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.images import decode_frame
from deltactl.ingest.sources import VideoFile
from deltactl.ingest.units import UnitLog, UnitPlan
from deltactl.ingest.video import decode_dali, videos
from deltactl.ingest.video.cutting import ClipCutter, CutClips, CutConfig, CutReply, CutTask, UnusableSource
from deltactl.ingest.video.decode_dali import DaliDecoder, DaliJob
from deltactl.ingest.video.videos import VideoClipMaker

pytest.importorskip("nvidia.dali")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos that DALI decodes on a CPU, of several sizes and codecs, and some that it does not."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        make_video(root / f"{number}.webm", "vp9", frames=40 + number, width=160 + 32 * (number % 3))
    make_video(root / "turned.mp4", "vp9", rotation=90)
    make_video(root / "older.webm", "vp8")
    make_video(root / "pictures.mkv", "mjpeg")
    make_video(root / "a film.mp4", "h264")
    make_video(root / "another film.mp4", "h264")
    red = np.array([[63, 102, 240]])  # of BT.709, as saturated as can be
    make_flat_video(root / "red.webm", "vp9", red, space=1, full=False, frames=30)
    return root


def ingest(source: Path, out: Path, **settings: Any) -> ShardSet:
    defaults = {"dataset": "folder", "clips": 2, "shard_clips": 14, "workers": 0, "decoder": "dali"}
    run_ingest(IngestConfig(source=str(source), out=str(out), **{**defaults, **settings}))
    return ShardSet.open(str(out))


def content(shards: ShardSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shards.root.path.iterdir() if path.name != "artifact.json"}


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ingest(folder, tmp_path_factory.mktemp("out") / "shards")


def test_each_frame_is_the_one_its_description_names(folder: Path, shards: ShardSet):
    clips = [clip for unit in shards.units for clip in shards.read(unit)]
    assert [clip.meta.source for clip in clips] == [
        name for name in sorted(path.name for path in folder.iterdir()) for _ in range(2)
    ]
    left = {"a film.mp4", "another film.mp4", "red.webm"}
    for clip in clips:
        assert clip.meta.decoder == ("pyav" if clip.meta.source in left else "dali")
        if clip.meta.source != "red.webm":
            turns = -1 if clip.meta.source == "turned.mp4" else 0
            images = [np.rot90(decode_frame(frame), turns) for frame in clip.frames]
            scale = images[0].shape[1] // 10 * 10
            assert [read_number(image[:, :scale]) for image in images] == list(clip.meta.indices)


@pytest.mark.parametrize("batch", [1, 3])
def test_how_many_videos_share_a_run_changes_no_byte(
    folder: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
):
    monkeypatch.setattr(videos, "BATCH_SOURCES", batch)
    assert content(ingest(folder, tmp_path / "out")) == content(shards)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_makes_the_same_bytes(folder: Path, shards: ShardSet, tmp_path: Path, workers: int):
    assert content(ingest(folder, tmp_path / "out", workers=workers)) == content(shards)


def test_what_dali_leaves_is_told_once_for_each_reason_and_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="deltactl"):
        ingest(folder, tmp_path / "out")
    lines = [record.getMessage() for record in caplog.records if "DALI" in record.getMessage()]
    assert lines == [
        "PyAV decodes a film.mp4, and others alike, in place of DALI: DALI on a CPU does not decode h264",
        "PyAV decodes red.webm, and others alike, in place of DALI: it has colours so saturated that DALI clips them",
        "3 videos were decoded by PyAV in place of DALI: 2 × DALI on a CPU does not decode h264; "
        "1 × it has colours so saturated that DALI clips them",
    ]


def settings_of(root: Path) -> CutConfig:
    return CutConfig("folder", str(root), clips=1, frames=8, size=FrameSize.of(512), quality=95, seed=0)


def change_jobs(
    monkeypatch: pytest.MonkeyPatch, dali: DaliDecoder, start: str, change: Callable[[DaliJob], DaliJob]
) -> None:
    """Change what DALI is to decode of the videos whose names begin so."""
    prepare = dali.prepare

    def prepared(video, wanted):
        job = prepare(video, wanted)
        return change(job) if video.path.name.startswith(start) else job

    monkeypatch.setattr(dali, "prepare", prepared)


def test_a_run_of_several_videos_that_fails_costs_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in "abcd":
        make_video(tmp_path / f"{name}.webm", "vp9", frames=20)
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    dali = cutter._dali
    assert dali is not None
    run, sizes = dali.run, []

    def fails_with_b(jobs):
        sizes.append(len(jobs))
        if any(job.codec == "damaged" for job in jobs):
            raise SourceError("DALI cannot decode it: a bad packet")
        return run(jobs)

    monkeypatch.setattr(dali, "run", fails_with_b)
    change_jobs(monkeypatch, dali, "b", lambda job: replace(job, codec="damaged"))
    reply = cutter.run(CutTask(tuple(VideoFile(f"{name}.webm") for name in "abcd")))
    cuts = [cut for cut in reply.cuts if isinstance(cut, CutClips)]
    assert [cut.clips[0].meta.decoder for cut in cuts] == ["dali", "pyav", "dali", "dali"]
    assert [cut.left_by_dali for cut in cuts] == [None, "DALI cannot decode it: a bad packet", None, None]
    assert sizes == [4, 1, 1, 1, 1]


def test_a_video_whose_first_frame_is_another_than_pyavs_is_left_to_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in "ab":
        make_video(tmp_path / f"{name}.webm", "vp9", frames=20)
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    dali = cutter._dali
    assert dali is not None

    def frame_one_for_frame_zero(job):
        first, *others = job.pieces
        return replace(job, pieces=(replace(first, positions=(1, *first.positions[1:])), *others))

    change_jobs(monkeypatch, dali, "a", frame_one_for_frame_zero)
    first, second = cutter.run(CutTask((VideoFile("a.webm"), VideoFile("b.webm")))).cuts
    assert isinstance(first, CutClips)
    assert isinstance(second, CutClips)
    assert (first.clips[0].meta.decoder, second.clips[0].meta.decoder) == ("pyav", "dali")
    assert "first frame is not PyAV's" in str(first.left_by_dali)


def test_a_codec_that_a_device_does_not_decode_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(6):
        make_video(tmp_path / f"{number}.webm", "vp9", frames=20)
    tries = []

    class Broken:
        def feed_input(self, name: str, data: object) -> None:
            pass

        def run(self) -> None:
            tries.append(1)
            raise RuntimeError("x encountered:\nCodec vp9 is not supported by NVDEC on this platform.")

    monkeypatch.setattr(decode_dali, "_build", lambda device: Broken())
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    cuts = cutter.run(CutTask(tuple(VideoFile(f"{number}.webm") for number in range(6)))).cuts
    assert all(isinstance(cut, CutClips) and cut.clips[0].meta.decoder == "pyav" for cut in cuts)
    again = cutter.run(CutTask((VideoFile("0.webm"),))).cuts[0]
    assert isinstance(again, CutClips)
    assert "decodes no vp9 rightly on this CPU: DALI cannot decode it: Codec vp9 is not supported" in str(
        again.left_by_dali
    )
    assert len(tries) == 3  # all of them together, the first by itself, a video of our own
    monkeypatch.undo()
    make_video(tmp_path / "other.webm", "vp8", frames=20)
    other = cutter.run(CutTask((VideoFile("other.webm"),))).cuts[0]
    assert isinstance(other, CutClips)
    assert other.clips[0].meta.decoder == "dali"


def test_many_videos_that_dali_alone_cannot_decode_are_not_laid_to_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("bad 0", "bad 1", "bad 2", "bad 3", "good"):
        make_video(tmp_path / f"{name}.webm", "vp9", frames=20)
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    dali = cutter._dali
    assert dali is not None

    def damaged(job):
        first, *others = job.pieces
        return replace(job, pieces=(replace(first, data=np.frombuffer(b"junk", np.uint8)), *others))

    change_jobs(monkeypatch, dali, "bad", damaged)
    for number in range(4):
        (cut,) = cutter.run(CutTask((VideoFile(f"bad {number}.webm"),))).cuts
        assert isinstance(cut, CutClips)
        assert cut.clips[0].meta.decoder == "pyav"
    (cut,) = cutter.run(CutTask((VideoFile("good.webm"),))).cuts
    assert isinstance(cut, CutClips)
    assert cut.clips[0].meta.decoder == "dali"


def test_dali_that_is_not_installed_is_an_error_before_anything_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deltactl.ingest.training.dali_is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"--decoder dali needs NVIDIA DALI.*deltactl\[gpu\]"):
        ingest(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_driver_without_nvdec_means_pyav_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4", frames=20)
    monkeypatch.setattr("deltactl.ingest.video.cutting.gpu_count", lambda: 1)
    monkeypatch.setattr(decode_dali, "has_nvdec", lambda: False)
    monkeypatch.setattr(decode_dali, "_build", lambda device: pytest.fail("a pipeline is built"))
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    cuts = cutter.run(CutTask(tuple(VideoFile(f"{number}.mp4") for number in range(3)))).cuts
    for cut in cuts:
        assert isinstance(cut, CutClips)
        assert cut.clips[0].meta.decoder == "pyav"
        assert cut.left_by_dali == "DALI does not start on this GPU: the driver has no libnvcuvid.so.1"


def test_videos_that_pyav_cannot_decode_either_are_not_laid_to_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("bad 0", "bad 1", "bad 2", "bad 3", "good"):
        make_video(tmp_path / f"{name}.webm", "vp9", frames=20)
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    dali, pyav = cutter._dali, cutter._pyav
    assert dali is not None
    assert pyav is not None
    run, frames, failing = dali.run, pyav.frames, True

    def runs(jobs):
        if failing:
            raise SourceError("DALI cannot decode it: a bad packet")
        return run(jobs)

    def decodes(video, wanted):
        if video.path.name.startswith("bad"):
            raise SourceError("the frame at 0.3 s is damaged")
        return frames(video, wanted)

    monkeypatch.setattr(dali, "run", runs)
    monkeypatch.setattr(pyav, "frames", decodes)
    for number in range(4):
        (cut,) = cutter.run(CutTask((VideoFile(f"bad {number}.webm"),))).cuts
        assert cut == UnusableSource("the frame at 0.3 s is damaged")
    failing = False
    (cut,) = cutter.run(CutTask((VideoFile("good.webm"),))).cuts
    assert isinstance(cut, CutClips)
    assert cut.clips[0].meta.decoder == "dali"


def test_a_source_that_nobody_can_read_has_pyavs_reason(tmp_path: Path):
    (tmp_path / "a.webm").write_bytes(b"not a video")
    make_video(tmp_path / "b.webm", "vp9", frames=1)
    cutter = ClipCutter(settings_of(tmp_path), dali=True)
    cutter.start(0)
    first, second = cutter.run(CutTask((VideoFile("a.webm"), VideoFile("b.webm")))).cuts
    assert isinstance(first, UnusableSource)
    assert isinstance(second, UnusableSource)
    assert "cannot be read as video" in first.reason
    assert "a single frame" in second.reason


class WornOut(ClipCutter):
    """The real cutter, which writes down its process, and is worn after two tasks, as by decoders kept on a GPU."""

    def start(self, slot: int) -> None:
        super().start(slot)
        self._tasks = 0

    def run(self, task: CutTask) -> CutReply:
        with (Path(self._config.root) / "processes").open("a") as file:
            file.write(f"{os.getpid()}\n")
        self._tasks += 1
        return CutReply(super().run(task).cuts, worn=self._tasks == 2)


def test_a_worn_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(videos, "BATCH_SOURCES", 1)
    names = [f"{number}.webm" for number in range(5)]
    for name in names:
        make_video(tmp_path / name, "vp9", frames=8)
    maker = VideoClipMaker(WornOut(settings_of(tmp_path), dali=True), children=1, time_limit_seconds=60)
    maker.start(0)
    clips = list(maker.clips(UnitPlan("000000", tuple(map(VideoFile, names)), 5), UnitLog()))
    maker.close()
    assert [clip.meta.source for clip in clips] == names
    first, second, third, fourth, fifth = (tmp_path / "processes").read_text().split()
    assert first == second != third == fourth != fifth


def test_processes_are_no_more_than_the_gpus_have_engines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deltactl.ingest.plan.gpu_count", lambda: 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    assert worker_count(IngestConfig(decoder="dali")) == 7
    assert worker_count(IngestConfig(decoder="auto")) == 64
    assert worker_count(IngestConfig(decoder="dali", workers=12)) == 12
    monkeypatch.setattr("deltactl.ingest.plan.gpu_count", lambda: 0)
    assert worker_count(IngestConfig(decoder="dali")) == 64
