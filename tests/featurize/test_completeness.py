"""Unfinished sets say so wherever they are read; nothing but the stage itself completes one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small_shards import training_shards
from small_stores import run as featurize
from small_stores import tokens
from videos import make_video

from deltactl.cli import main
from deltactl.commands.info import describe
from deltactl.configs.ingest import IngestConfig
from deltactl.featurize.store.packing import unpack
from deltactl.featurize.store.packs import Listing, Pack
from deltactl.featurize.verify import Verification
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.removal import agree
from deltactl.train.data.inputs import open_input


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        make_video(root / f"{number}.mp4", frames=20)
    return root


def ingest(videos: Path, out: Path, **changes: Any) -> None:
    values = {"dataset": "folder", "clips": 2, "shard_clips": 4, "size": 64, "workers": 0}
    run_ingest(IngestConfig(source=str(videos), out=str(out), **{**values, **changes}))


@pytest.fixture
def half(videos: Path, tmp_path: Path) -> Path:
    """Shards of which one of three is there."""
    ingest(videos, tmp_path / "shards", part="1/3")
    return tmp_path / "shards"


def repair(root: Path) -> list[str]:
    verification = Verification.of(str(root))
    return verification.repair(verification.run(), shards=None, backbone=None, device="cpu", consent=agree)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_repair_never_completes_shards_whose_ingest_has_not_ended(
    half: Path, earlier_version: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if earlier_version:
        (half / "sources-001.json").unlink()
    for flags in ([], ["--repair"], ["--repair", "--yes"]):
        assert main(["verify", str(half), *flags]) == 1
        output = capsys.readouterr()
        assert "1 of 3 shards are there; to end it, run: " in output.err
        assert "--repair" not in output.err
    assert not (half / "index.json").exists()
    assert "no: " in describe(str(half))["artifact"]["complete"]


def test_an_index_of_shards_that_is_lost_is_made_again(videos: Path, tmp_path: Path) -> None:
    ingest(videos, tmp_path / "shards")
    index = tmp_path / "shards" / "index.json"
    for spoil in (lambda: index.unlink(), lambda: index.write_bytes(b"{}")):
        before = index.read_bytes()
        spoil()
        assert main(["verify", str(tmp_path / "shards")]) == 1
        assert main(["verify", str(tmp_path / "shards"), "--repair"]) == 0
        assert index.read_bytes() == before


def test_a_damaged_index_is_not_rebuilt_over_shards_that_are_gone(videos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    ingest(videos, shards)
    (shards / "index.json").write_bytes(b"{}")
    for end in ("tar", "json"):
        (shards / f"000002.{end}").unlink()
    assert "2 of 3 shards are there" in repair(shards)[-1]
    assert not (shards / "index.json").exists()


def test_everything_that_reads_an_unfinished_set_says_so(
    videos: Path, half: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, made = tmp_path / "store", tmp_path / "tokens"
    featurize(half, store)
    assert "shards is unfinished: 1 of 3 shards are there" in caplog.text
    facts = describe(str(store))["artifact"]
    assert "made of the 1 shards that were there; 2 or more were to come" in facts["complete"]
    for place in (half, store):
        caplog.clear()
        open_input(str(place), ("features", "shards"))
        assert f"{place} is unfinished" in caplog.text
    tokens(store, made)
    assert "2 or more were to come" in describe(str(made))["artifact"]["complete"]
    kinds = [finding.kind for finding in Verification.of(str(store)).run()]
    assert kinds == ["unfinished"]
    assert "2 or more were to come" in repair(store)[-1]
    ingest(videos, half)
    featurize(half, store)
    tokens(store, made)
    assert describe(str(store))["artifact"]["complete"] == describe(str(made))["artifact"]["complete"] == "yes"


def store_of(folder: Path, kind: str) -> Path:
    """Make shards and features, and tokens where they are asked for; return the store of that kind."""
    training_shards(folder / "shards")
    featurize(folder / "shards", folder / "features")
    if kind == "tokens":
        tokens(folder / "features", folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_repair_never_completes_a_store_whose_stage_has_not_ended(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, kind)
    # As a stage leaves it that was killed in its first run.
    if kind == "tokens":
        (pack,) = Listing.of(Location.of(store)).packs[0]
        unpack(Pack.read(Location.of(store), 0, pack), ["000000", "000001"])
    shutil.rmtree(store / "v000" / "000001")
    (store / "index.json").unlink()
    assert [finding.kind for finding in Verification.of(str(store)).run()] == ["unfinished"]
    assert "to end it, run: " in repair(store)[-1]
    assert not (store / "index.json").exists()


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_a_lost_index_of_a_whole_store_is_made_again_where_its_source_proves_it(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, kind)
    before = (store / "index.json").read_bytes()
    (store / "index.json").unlink()
    source = tmp_path / ("shards" if kind == "features" else "features")
    source.rename(tmp_path / "elsewhere")
    assert "to end it, run: " in repair(store)[-1]
    assert not (store / "index.json").exists()
    (tmp_path / "elsewhere").rename(source)
    repair(store)
    assert (store / "index.json").read_bytes() == before


def test_shards_in_the_making_have_no_index(half: Path) -> None:
    shards = ShardSet.open(str(half))
    assert (shards.complete, shards.units) == (False, ["000000"])
