"""An ingest of an evaluation set: killed and resumed, in parts, in processes, and with sources that cannot be used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deltactl.artifacts import read_quarantine
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import IdentityError, TooManyBadError
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location

PROGRAM = """
import sys
from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.run import run as run_ingest
if __name__ == "__main__":
    run_ingest(IngestConfig.model_validate_json(sys.argv[1]))
"""


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    """A copy of the VSPW tree that a test may damage."""
    return Path(shutil.copytree(trees / "VSPW", tmp_path / "VSPW"))


def vspw(root: Path, out: Path, *, part: str | None = None, size: int = 64, workers: int = 0) -> IngestConfig:
    return IngestConfig(
        dataset="vspw", source=str(root), out=str(out), size=size, shard_clips=1, workers=workers, part=part
    )


def content(out: Path) -> dict[str, bytes]:
    """Every file of the shards but the header, which tells the command and the time."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "artifact.json"}


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(trees: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ingest(vspw(trees / "VSPW", whole, size=512))
    config = vspw(trees / "VSPW", killed, size=512).model_dump_json()
    for finished in (0, 2):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, config], stderr=subprocess.DEVNULL) as process:
            # Inside the next shard: the staging folder beside the shards holds a part of it.
            while not (len(list(killed.glob("0*.json"))) >= finished and list(tmp_path.glob(".killed.partial/*/*/*"))):
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.002)
            process.kill()
        assert not (killed / "index.json").exists()
    run_ingest(vspw(trees / "VSPW", killed, size=512))
    assert content(killed) == content(whole)
    assert not list(tmp_path.glob(".killed.partial/*@*"))


def test_parts_and_processes_give_the_same_bytes(trees: Path, tmp_path: Path) -> None:
    run_ingest(vspw(trees / "VSPW", tmp_path / "one"))
    for part in ("2/3", "1/3", "3/3"):
        run_ingest(vspw(trees / "VSPW", tmp_path / "parts", part=part))
    run_ingest(vspw(trees / "VSPW", tmp_path / "two", workers=2))
    assert content(tmp_path / "parts") == content(tmp_path / "two") == content(tmp_path / "one")


def test_a_finished_set_is_left_as_it_is(trees: Path, tmp_path: Path) -> None:
    config = vspw(trees / "VSPW", tmp_path / "out")
    assert run_ingest(config).done == 5
    before = content(tmp_path / "out")
    again = run_ingest(config)
    assert (again.done, again.skipped) == (0, 5)
    assert content(tmp_path / "out") == before


def test_another_size_or_another_list_is_not_mixed_in(tree: Path, tmp_path: Path) -> None:
    run_ingest(vspw(tree, tmp_path / "out"))
    with pytest.raises(IdentityError, match="size is 64 there, 128 here"):
        run_ingest(vspw(tree, tmp_path / "out", size=128))
    (tree / "val.txt").write_text("100_clip\n")
    with pytest.raises(IdentityError, match="was made of other clips: .* gone"):
        run_ingest(vspw(tree, tmp_path / "out"))


def test_bad_sources_are_named_and_counted_against_max_bad(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tree / "data" / "100_clip" / "mask" / "00000039.png").write_bytes(b"")
    shutil.rmtree(tree / "data" / "101_clip" / "origin")
    config = vspw(tree, out)
    with pytest.raises(TooManyBadError, match="of 4 sources"):
        run_ingest(config)
    summary = run_ingest(config.model_copy(update={"max_bad": 0.5}))
    shards = ShardSet.open(Location.of(out))
    assert [key for unit in shards.units for key in shards.keys(unit)] == [
        "100_clip_00000019",
        "102_clip_00000019",
    ]
    found = {entry.source: entry.reason for entry in read_quarantine(Location.of(out))}
    assert found == {
        "data/100_clip/origin/00000039.jpg": "data/100_clip/mask/00000039.png is empty",
        "data/101_clip": "data/101_clip/origin holds no frames",
    }
    assert summary.quarantined <= 2


def test_mended_sources_come_back_with_retry_failed(tree: Path, tmp_path: Path) -> None:
    mask = tree / "data" / "100_clip" / "mask" / "00000039.png"
    good = mask.read_bytes()
    mask.write_bytes(good[:-20])
    config = vspw(tree, tmp_path / "out").model_copy(update={"max_bad": 0.5})
    run_ingest(config)
    mask.write_bytes(good)
    assert run_ingest(config).done == 0
    assert run_ingest(config.model_copy(update={"retry_failed": True})).done == 1
    run_ingest(vspw(tree, tmp_path / "never-bad"))
    assert content(tmp_path / "out") == content(tmp_path / "never-bad")


def test_the_header_says_what_the_shards_are(trees: Path, tmp_path: Path) -> None:
    config = IngestConfig(
        dataset="kitti",
        source=str(trees / "kitti"),
        split_file=str(trees / "kitti" / "eigen_test.txt"),
        out=str(tmp_path / "out"),
        size=64,
        workers=0,
    )
    run_ingest(config)
    identity = json.loads((tmp_path / "out" / "artifact.json").read_text())["identity"]
    assert {key: identity[key] for key in ("dataset", "split", "frames", "size")} == {
        "dataset": "kitti",
        "split": "val",
        "frames": 7,
        "size": 64,
    }
    shards = ShardSet.open(Location.of(tmp_path / "out"))
    assert shards.count == 3
    assert all(clip.label_kind == "depth" for unit in shards.units for clip in shards.read(unit))
