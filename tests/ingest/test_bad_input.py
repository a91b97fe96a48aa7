"""A source that cannot be read costs itself alone: it is quarantined by name, with the reason."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest
from videos import make_video, read_number

from deltactl.artifacts import read_quarantine
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import SourceError, TooManyBadError
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame
from deltactl.ingest.shards.verify import verify_shards
from deltactl.ingest.sources import VideoFile
from deltactl.ingest.units import UnitLog, UnitPlan
from deltactl.ingest.video.cutting import ClipCutter, CutConfig, CutReply, CutTask
from deltactl.ingest.video.timestamps import Video
from deltactl.ingest.video.videos import VideoClipMaker
from deltactl.locations import Location


def make_bad_files(root: Path) -> dict[str, str]:
    """Put everything that has been seen in real folders there; return what the reason must say."""
    whole = make_video(root / "whole.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("<html>404 Not Found</html>" * 20)
    (root / "random.mkv").write_bytes(np.random.default_rng(0).bytes(20_000))
    webm = make_video(root / "x.webm", "vp9").read_bytes()
    (root / "header only.webm").write_bytes(webm[:300])
    (root / "x.webm").unlink()
    (root / "dangling.mp4").symlink_to(root / "nowhere")
    (root / "directory.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    make_video(root / "secret.ts")
    (root / "script.mp4").write_text(f"ffconcat version 1.0\nfile {root}/secret.ts\n")
    (root / "playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{root}/secret.ts\n")
    make_video(root / "one frame.mp4", frames=1)
    with av.open(str(root / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    return {
        "truncated.mp4": "cannot be read as video",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read as video",
        "random.mkv": "cannot be read as video",
        "header only.webm": "cannot be read as video",
        "dangling.mp4": "does not exist",
        "directory.mp4": "is a directory",
        "pipe.mp4": "not a file",
        "script.mp4": "cannot be read as video",
        "playlist.mp4": "cannot be read as video",
        "one frame.mp4": "a single frame",
        "sound.mp4": "no video stream",
    }


def test_every_bad_file_is_quarantined_with_its_reason_and_the_good_ones_are_kept(tmp_path: Path):
    root, out = tmp_path / "in", tmp_path / "out"
    reasons = make_bad_files(root)
    summary = run_ingest(IngestConfig(source=str(root), dataset="folder", out=str(out), max_bad=1, workers=1))
    found = {entry.source: entry.reason for entry in read_quarantine(Location.of(out))}
    assert found.keys() == reasons.keys()
    for source, reason in reasons.items():
        assert reason in found[source], f"{source}: {found[source]}"
    shards = ShardSet.open(str(out))
    assert [clip.meta.source for clip in shards.read("000000")] == ["secret.ts", "whole.mp4"]
    assert (summary.done, summary.quarantined) == (2, len(reasons))


def test_names_that_are_not_utf8_are_kept_in_shards_and_quarantine(tmp_path: Path):
    root, out = tmp_path / "in", tmp_path / "out"
    good, bad, split = os.fsdecode(b"go\xf6d.mp4"), os.fsdecode(b"b\xe4d.mp4"), "two\u2028lines\x85.mp4"
    make_video(root / "a.mp4", frames=8).rename(root / good)
    for number, name in enumerate((bad, split)):
        (root / name).write_text(f"not a video, {number}")  # no copies, whose names pytest-xdist could not pass on
    run_ingest(IngestConfig(source=str(root), dataset="folder", out=str(out), max_bad=1, workers=1))
    shards = ShardSet.open(str(out))
    (clip,) = shards.read("000000")
    assert clip.meta.source == good
    assert [read_number(decode_frame(frame)) for frame in clip.frames] == list(clip.meta.indices)
    assert sorted(entry.source for entry in read_quarantine(shards.root)) == sorted([bad, split])
    assert list(verify_shards(shards.root)) == []


def test_a_file_without_permission_is_an_error_of_its_own(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", frames=2)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(SourceError, match="no permission to read it"):
            Video(path)
    finally:
        os.seteuid(user)


def test_a_video_that_ends_early_gives_clips_of_what_is_there(tmp_path: Path):
    options = {"movflags": "frag_keyframe+empty_moov"}
    data = make_video(tmp_path / "whole.mp4", container_options=options).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.mp4").write_bytes(data[: int(len(data) * 0.7)])
    run_ingest(IngestConfig(source=str(tmp_path / "in"), out=str(tmp_path / "out"), clips=4, workers=1))
    for clip in ShardSet.open(str(tmp_path / "out")).read("000000"):
        assert [read_number(decode_frame(frame)) for frame in clip.frames] == list(clip.meta.indices)
        assert max(clip.meta.indices) < 59


def test_too_many_bad_sources_stop_the_run_and_keep_what_was_made(tmp_path: Path):
    root, out = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        make_video(root / f"a{number}.mp4", frames=8)
    for number in range(9):
        (root / f"b{number}.mp4").write_text(f"not a video {number}")
    config = IngestConfig(source=str(root), dataset="folder", out=str(out), shard_clips=3, max_bad=0.2, workers=1)
    with pytest.raises(TooManyBadError, match=r"3 of 12 sources cannot be read, more than --max-bad 0\.2 allows"):
        run_ingest(config)
    assert sorted(path.name for path in out.glob("*.tar")) == ["000000.tar", "000001.tar"]
    assert [entry.source for entry in read_quarantine(Location.of(out))] == ["b0.mp4", "b1.mp4", "b2.mp4"]
    with pytest.raises(TooManyBadError, match="3 of 12"):
        run_ingest(config)
    run_ingest(config.model_copy(update={"max_bad": 1.0}))
    assert ShardSet.open(str(out)).count == 3
    assert len(read_quarantine(Location.of(out))) == 9


def test_mended_sources_come_in_with_retry_failed_and_other_shards_stay(tmp_path: Path):
    root, out = tmp_path / "in", tmp_path / "out"
    for name in "abcd":
        make_video(root / f"{name}.mp4", frames=8)
    good = (root / "c.mp4").read_bytes()
    (root / "c.mp4").write_bytes(b"broken")
    config = IngestConfig(source=str(root), dataset="folder", out=str(out), shard_clips=2, max_bad=1, workers=1)
    run_ingest(config)
    (root / "c.mp4").write_bytes(good)
    before = (out / "000000.tar").stat()
    assert run_ingest(config).done == 0
    summary = run_ingest(config.model_copy(update={"retry_failed": True}))
    assert (summary.done, summary.skipped, summary.quarantined) == (2, 2, 0)
    assert (out / "000000.tar").stat().st_mtime_ns == before.st_mtime_ns
    shards = ShardSet.open(str(out))
    assert [clip.meta.source for clip in shards.read("000001")] == ["c.mp4", "d.mp4"]
    assert read_quarantine(shards.root) == []


class FaultyCutter(ClipCutter):
    """The real cutter, in which a decoder crashes or hangs at sources of these names."""

    def run(self, task: CutTask) -> CutReply:
        if any("crash" in source.name for source in task.sources):
            os.kill(os.getpid(), signal.SIGSEGV)
        if any("hang" in source.name for source in task.sources):
            time.sleep(600)
        return super().run(task)


def test_a_decoder_that_crashes_or_hangs_costs_one_source(tmp_path: Path):
    names = ["a.mp4", "b crash.mp4", "c.mp4", "d hang.mp4", "e.mp4"]
    for name in names:
        make_video(tmp_path / name, frames=8)
    settings = CutConfig("folder", str(tmp_path), clips=1, frames=8, size=FrameSize.of(512), quality=95, seed=0)
    maker = VideoClipMaker(FaultyCutter(settings, dali=False), children=2, time_limit_seconds=2)
    log = UnitLog()
    maker.start(0)
    clips = list(maker.clips(UnitPlan("000000", tuple(map(VideoFile, names)), 5), log))
    maker.close()
    assert [clip.meta.source for clip in clips] == ["a.mp4", "c.mp4", "e.mp4"]
    crash, hang = log.quarantined
    assert (crash.source, hang.source) == ("b crash.mp4", "d hang.mp4")
    assert "the decoder crashed" in crash.reason
    assert "SIGSEGV" in crash.reason
    assert "longer than 2 s" in hang.reason


class KilledCutter(ClipCutter):
    """The real cutter, whose process is killed from outside as it comes to sources of these names, so many times."""

    def __init__(self, settings: CutConfig, kills: int, *, dali: bool) -> None:
        super().__init__(settings, dali=dali)
        self._kills = kills

    def run(self, task: CutTask) -> CutReply:
        marks = Path(self._config.root) / "kills"
        if any("victim" in source.name for source in task.sources):
            marks.mkdir(exist_ok=True)
            if len(list(marks.iterdir())) < self._kills:
                (marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
def test_a_decoder_that_is_killed_once_changes_nothing_and_killed_twice_costs_one_source(tmp_path: Path, decoder: str):
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    names = ["a.webm", "b victim.webm", "c.webm"]
    for name in names:
        make_video(tmp_path / name, "vp9", frames=8)
    settings = CutConfig("folder", str(tmp_path), clips=2, frames=8, size=FrameSize.of(512), quality=95, seed=0)

    def made(kills: int) -> tuple[list[Clip], UnitLog]:
        shutil.rmtree(tmp_path / "kills", ignore_errors=True)
        cutter = KilledCutter(settings, kills, dali=decoder == "dali")
        maker, log = VideoClipMaker(cutter, children=2, time_limit_seconds=60), UnitLog()
        maker.start(0)
        clips = list(maker.clips(UnitPlan("000000", tuple(map(VideoFile, names)), 3), log))
        maker.close()
        assert len(list((tmp_path / "kills").iterdir())) == kills
        return clips, log

    undisturbed, _ = made(0)
    killed, log = made(1)
    assert (killed, log.quarantined, log.left_by_dali) == (undisturbed, [], [])
    assert {clip.meta.decoder for clip in killed} == {decoder}
    rest, log = made(4 if decoder == "dali" else 2)
    assert [clip.meta.source for clip in rest] == ["a.webm", "a.webm", "c.webm", "c.webm"]
    (entry,) = log.quarantined
    assert entry.source == "b victim.webm"
    assert "was ended by SIGKILL (out of memory?)" in entry.reason


class CrashesInDali(ClipCutter):
    """The real cutter, in which DALI crashes or hangs at sources of these names, also when others are with them."""

    def run(self, task: CutTask) -> CutReply:
        with (Path(self._config.root) / "tasks").open("a") as file:
            file.write(f"{len(task.sources)} {task.dali}\n")
        if task.dali and any("crash" in source.name for source in task.sources):
            os.kill(os.getpid(), signal.SIGABRT)
        if task.dali and any("hang" in source.name for source in task.sources):
            time.sleep(600)
        return super().run(task)


def test_what_crashes_in_dali_is_tried_by_itself_and_then_with_pyav(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    names = ["a.webm", "b crash.webm", "c.webm", "d.mp4"]
    for name in names:
        make_video(tmp_path / name, "vp9" if name.endswith("webm") else "h264", frames=8)
    settings = CutConfig("folder", str(tmp_path), clips=1, frames=8, size=FrameSize.of(512), quality=95, seed=0)
    maker = VideoClipMaker(CrashesInDali(settings, dali=True), children=1, time_limit_seconds=60)
    log = UnitLog()
    maker.start(0)
    clips = list(maker.clips(UnitPlan("000000", tuple(map(VideoFile, names)), 4), log))
    maker.close()
    assert [(clip.meta.source, clip.meta.decoder) for clip in clips] == [
        ("a.webm", "dali"),
        ("b crash.webm", "pyav"),
        ("c.webm", "dali"),
        ("d.mp4", "pyav"),
    ]
    assert log.quarantined == []
    crash, refused = log.left_by_dali
    assert crash[1] == "b crash.webm"
    assert "SIGABRT" in crash[0]
    assert refused == ("DALI on a CPU does not decode h264", "d.mp4")
    assert (tmp_path / "tasks").read_text().splitlines() == [
        "4 True",
        "1 True",
        "1 True",
        "1 False",
        "1 True",
        "1 True",
    ]


def test_what_hangs_in_dali_is_tried_with_pyav(tmp_path: Path):
    make_video(tmp_path / "hang.webm", "vp9", frames=8)
    settings = CutConfig("folder", str(tmp_path), clips=1, frames=8, size=FrameSize.of(512), quality=95, seed=0)
    maker = VideoClipMaker(CrashesInDali(settings, dali=True), children=1, time_limit_seconds=2)
    log = UnitLog()
    maker.start(0)
    (clip,) = maker.clips(UnitPlan("000000", (VideoFile("hang.webm"),), 1), log)
    maker.close()
    assert clip.meta.decoder == "pyav"
    assert [source for _, source in log.left_by_dali] == ["hang.webm"]


def test_damaged_files_given_to_dali_harm_nothing_else(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    root, out = tmp_path / "in", tmp_path / "out"
    generator = np.random.default_rng(0)
    for name, codec in {"vp8.webm": "vp8", "mjpeg.mkv": "mjpeg"}.items():
        data = bytearray(make_video(root / f"good {name}", codec).read_bytes())
        for number in range(6):
            damaged = data.copy()
            for place in generator.integers(len(data) // 10, len(data), 300):
                damaged[place] = generator.integers(256)
            (root / f"bad {number} {name}").write_bytes(damaged)
    config = IngestConfig(
        source=str(root), dataset="folder", out=str(out), decoder="dali", max_bad=1, time_limit=30, workers=1
    )
    run_ingest(config)
    good = [clip for clip in ShardSet.open(str(out)).read("000000") if clip.meta.source.startswith("good")]
    assert len(good) == 2
    for clip in good:
        assert clip.meta.decoder == "dali"
        assert [read_number(decode_frame(frame)) for frame in clip.frames] == list(clip.meta.indices)
