"""Paths with a backslash, names of 250 bytes and names that are not UTF-8: as sources, as inputs and as outputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from small_shards import training_shards
from small_stores import run
from videos import make_video

from deltactl.cli import main
from deltactl.featurize.store.array_files import write_array
from deltactl.featurize.store.layout import black_spec
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.verify import Verification
from deltactl.ingest.shards.format import ShardSet

ODD = {"backslash": "back\\slash\\n", "long": "a" * 250, "quotes": 'it\'s "so" %03d{0}'}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ODD)
def test_a_store_is_written_where_its_path_says(name: str, tmp_path: Path) -> None:
    """tensorstore takes a backslash for a slash: the store would lie in folders beside, and be empty."""
    folder = tmp_path / "here"
    run_shards = tmp_path / "shards"
    training_shards(run_shards, units=1, clips=2)
    run(run_shards, folder / ODD[name])
    assert files_below(folder) == {ODD[name]}
    with FeatureStore.open(str(folder / ODD[name])) as store:
        assert store.read_clips([0, 1]).isfinite().all()
    assert Verification.of(str(folder / ODD[name])).run() == []


def test_an_array_is_written_below_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_array(folder, black_spec(2, 3), np.ones((2, 3), np.float32))
    assert (folder / "zarr.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}


@pytest.mark.parametrize("name", ODD)
def test_shards_come_from_and_go_to_odd_names(name: str, tmp_path: Path) -> None:
    source = tmp_path / "from" / ODD[name]
    source.mkdir(parents=True)
    for number, video in enumerate((f"{ODD[name][:246]}.mp4", os.fsdecode(b"caf\xe9 \xff.mp4"))):
        make_video(tmp_path / "video.mp4", frames=30 + number).rename(source / video)
    out = tmp_path / "to" / ODD[name]
    options = ["--size", "64", "--clips", "1", "--frames", "4", "--workers", "1"]
    assert main(["ingest", str(source), "--out", str(out), *options]) == 0
    assert ShardSet.open(str(out)).count == 2
    assert files_below(tmp_path / "to") == {ODD[name]}
    assert main(["verify", str(out)]) == 0
    assert main(["info", str(out)]) == 0


@pytest.mark.parametrize("name", [*ODD.values(), os.fsdecode(b"caf\xe9")])
def test_weights_are_exported_to_odd_names(name: str, golden: Path, tmp_path: Path) -> None:
    assert main(["export", str(golden / "deltatok.bin"), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name / "README.md").read_text().startswith("---")
    assert main(["info", str(tmp_path / name)]) == 0


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_path_that_is_too_long_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / ("b" * 300))]) == 1
    assert "a name in it is too long for its file system; choose a shorter one" in capsys.readouterr().err
