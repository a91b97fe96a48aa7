"""Stop an ingest anywhere, run it twice, in parts or on a full disk: in the end the bytes are the same."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from videos import make_video

from deltactl.artifacts import part_of
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import IdentityError, StorageError
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet

PROGRAM = [sys.executable, "-c", "import sys; from deltactl.cli import main; sys.exit(main())"]
SETTINGS = {"dataset": "folder", "clips": 2, "shard_clips": 4}
FLAGS = ["--dataset", "folder", "--clips", "2", "--shard-clips", "4", "--max-bad", "0.5"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(11):
        make_video(root / f"{number:02d}.mp4", frames=40)
    (root / "bad.mp4").write_text("not a video")
    return root


def settings(videos: Path, out: Path, **more) -> IngestConfig:
    return IngestConfig(source=str(videos), out=str(out), max_bad=0.5, **{**SETTINGS, "workers": 1, **more})


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.name != "artifact.json"}


@pytest.fixture(scope="module")
def expected(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an ingest that nothing disturbs leaves."""
    out = tmp_path_factory.mktemp("undisturbed") / "shards"
    run_ingest(settings(videos, out))
    assert len(list(out.glob("*.tar"))) == 6
    return files(out)


def start(videos: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, "ingest", str(videos), "--out", str(out), *FLAGS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(videos: Path, expected: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "shards"
    generator = random.Random(0)
    kills = 0
    for delay in [generator.uniform(0.0, 1.5), *(generator.uniform(0.0, 0.15) for _ in range(4))]:
        with start(videos, out, "--workers", "2") as process:
            made = len(list(out.glob("*.tar")))
            while kills and process.poll() is None and len(list(out.glob("*.tar"))) == made:
                time.sleep(0.01)  # but for the first time, until another shard is there
            time.sleep(delay)
            kills += process.poll() is None
            process.kill()
        for tar in out.glob("*.tar"):  # what is published is whole at any moment
            assert not (out / f"{tar.stem}.json").exists() or tar.read_bytes() == expected[tar.name]
    assert kills > 0
    with start(videos, out, "--workers", "2") as process:
        _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert files(out) == expected


@pytest.mark.slow
def test_two_runs_at_once_do_no_harm(videos: Path, expected: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "shards"
    with start(videos, out, "--workers", "1") as first, start(videos, out, "--workers", "1") as second:
        messages = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], messages
    assert files(out) == expected


def test_parts_make_the_whole(videos: Path, expected: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "shards"
    for number in (2, 3, 1):
        assert not ShardSet.open(str(out)).complete if out.exists() else True
        summary = run_ingest(settings(videos, out, part=f"{number}/3"))
        assert summary.skipped == 0
    assert ShardSet.open(str(out)).complete
    assert files(out) == expected


def test_parts_share_the_shards_without_overlap():
    units = list(range(10))
    parts = [list(part_of(units, f"{number}/4")) for number in range(1, 5)]
    assert sorted(unit for part in parts for unit in part) == units


def test_a_finished_set_is_left_as_it_is(videos: Path, expected: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "shards"
    run_ingest(settings(videos, out))
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    summary = run_ingest(settings(videos, out))
    assert (summary.done, summary.skipped) == (0, 22)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times


def test_a_shard_that_is_gone_is_made_again(videos: Path, expected: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "shards"
    run_ingest(settings(videos, out))
    (out / "000002.tar").unlink()
    (out / "000004.json").unlink()
    assert run_ingest(settings(videos, out)).done == 8
    assert files(out) == expected


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"size": 256}, "size is 512 there, 256 here"),
        ({"stride": "0.2"}, "stride is 0.04:1/3 there, 0.2 here"),
    ],
)
def test_other_settings_never_mix_with_what_is_there(
    videos: Path, tmp_path: Path, change: dict[str, Any], difference: str
):
    out = tmp_path / "shards"
    run_ingest(settings(videos, out, part="1/6"))
    with pytest.raises(IdentityError, match=difference):
        run_ingest(settings(videos, out, **change))


def test_other_sources_never_mix_with_what_is_there(videos: Path, tmp_path: Path):
    shutil.copytree(videos, tmp_path / "in")
    run_ingest(settings(tmp_path / "in", tmp_path / "shards", part="1/6"))
    (tmp_path / "in" / "00.mp4").rename(tmp_path / "in" / "zz.mp4")
    with pytest.raises(IdentityError, match="00.mp4 is gone; zz.mp4 is new"):
        run_ingest(settings(tmp_path / "in", tmp_path / "shards"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB; skips where mounting one is not permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_goes_on_after_space_is_made(
    videos: Path, expected: dict[str, bytes], small_disk: Path
):
    (small_disk / "ballast").write_bytes(os.urandom(700_000))
    out = small_disk / "shards"
    with pytest.raises(StorageError, match="no space left .*; make room"):
        run_ingest(settings(videos, out))
    for tar in out.glob("*.tar"):
        assert tar.read_bytes() == expected[tar.name]
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    run_ingest(settings(videos, out))
    assert files(out) == expected
    assert sorted(path.name for path in small_disk.iterdir()) == ["shards"]
