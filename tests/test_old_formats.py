"""Shards and stores of format 1, which does not record the sources of clips, still go through every stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import GOLDEN, quiet, tiny
from small_stores import flip
from small_training import BACKBONE, tokenizer_config, world_config
from videos import make_video

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.head import HeadConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.evaluate.run import run as evaluate
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.finish import read_group_file
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.keys import source_name
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.ingest.shards.sidecars import read_sidecar
from deltactl.locations import Location
from deltactl.tokenization.run import run as tokenize
from deltactl.train.data.heads_data import HeadData
from deltactl.train.data.live import LiveClips
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.selection import Selection, select
from deltactl.train.data.sources import StorePairs
from deltactl.train.run import train

OLD = Path(__file__).parent / "old_files" / "format_1"
SPLITS: dict[str, dict[str, Any]] = json.loads((OLD / "splits.json").read_text())
TOKENIZER = str(GOLDEN / "deltatok.bin")
PLACES = np.arange(40, dtype=np.int64)
SIZES: dict[str, Any] = {"size": 64, "device": "cpu", "workers": 0}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of all of them, to go on from."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, made again from the same videos and pictures by this version."""
    root = tmp_path_factory.mktemp("new")
    ingest_videos(OLD / "videos", root / "shards")
    make_features(root / "shards", root / "features", views="2")
    make_tokens(root / "features", root / "tokens")
    source = str(OLD.parent.parent / "trees" / "VSPW")
    run_ingest(
        IngestConfig(dataset="vspw", source=source, split="val", size=64, out=str(root / "vspw-shards"), workers=0)
    )
    make_features(root / "vspw-shards", root / "vspw-features")
    return root


def ingest_videos(source: Path, out: Path) -> None:
    settings = {"clips": 3, "frames": 3, "size": 64, "quality": 60, "shard_clips": 12, "workers": 0}
    run_ingest(IngestConfig(source=str(source), out=str(out), dataset="folder", **settings))


def make_features(shards: Path, out: Path, **changes: Any) -> None:
    featurize(FeaturizeConfig(shards=str(shards), backbone=str(BACKBONE), out=str(out), **SIZES, **changes))


def make_tokens(data: Path, out: Path, **changes: Any) -> None:
    settings = {"tokenizer": TOKENIZER, "backbone": str(BACKBONE), **SIZES, **changes}
    tokenize(TokenizeConfig(data=str(data), out=str(out), **settings))


def format_of(file: Path) -> int:
    content = json.loads(file.read_bytes())
    return int(content.get("attributes", content)["format"])


def test_they_are_of_format_1() -> None:
    names = ["shards/000000.json", "features/index.json", "tokens/v000/000000/zarr.json", "vspw-shards/000000.json"]
    assert [format_of(OLD / name) for name in names] == [1] * len(names)


def keys_of(index: ClipStore | ShardSet, selection: Selection) -> list[str]:
    keys = [key for unit in index.units for key in index.keys(unit)] if isinstance(index, ShardSet) else index.keys
    return sorted(keys[number] for number in selection.samples[0])


@pytest.mark.parametrize("share", SPLITS)
@pytest.mark.parametrize("kind", ["old", "new"])
def test_the_same_clips_are_held_out_and_drawn_as_before(kind: str, share: str, new: Path) -> None:
    """Of the old files, and of the same data made anew: what is recorded is what was guessed."""
    root, expected = OLD if kind == "old" else new, SPLITS[share]
    shards = ShardSet.open(str(root / "shards"))
    features, tokens = FeatureStore.open(str(root / "features")), TokenStore.open(str(root / "tokens"))
    indexes: dict[str, ClipStore | ShardSet] = {"shards": shards, "features": features, "tokens": tokens}
    for name, index in indexes.items():
        assert keys_of(index, select(index, float(share))[1]) == expected[name], name
    train, _ = select(features, float(share))
    pairs = StorePairs(features, train, ClipOrder(train.shard_sizes, 7, 1), 7, 2).pairs(PLACES)
    assert [list(pair) for pair in pairs] == expected["pair_draws"]
    train, _ = select(shards, float(share))
    order = ClipOrder(train.shard_sizes, 7)
    live = LiveClips(
        RandomAccess(shards), train, order, take="clips", frames=3, size=FrameSize.of(64), seed=7, threads=1
    )
    assert list(live.keys(PLACES)) == expected["live_draws"]
    labelled = ShardSet.open(str(root / "vspw-shards"))
    data = HeadData("vspw", labelled, FeatureStore.open(str(root / "vspw-features")), 0, float(share))
    held = data.held_out_source() if data.held_out else None
    assert (sorted(set(held.keys(np.arange(data.held_out)))) if held else []) == expected["head"]
    assert list(data.training_source().keys(PLACES)) == expected["head_draws"]


def test_nothing_but_what_records_the_sources_is_written_otherwise(new: Path) -> None:
    """Tars have the bytes of then; identities are the same, so that runs and stores go on."""
    for name in ("shards", "features", "tokens", "vspw-shards", "vspw-features"):
        assert read_header(Location.of(new / name)).identity == read_header(Location.of(OLD / name)).identity
        if "shards" in name:
            there, made = (
                {path.relative_to(root / name) for path in (root / name).rglob("*") if path.is_file()}
                for root in (OLD, new)
            )
            assert there == made
    for tar in OLD.glob("*/*.tar"):
        assert tar.read_bytes() == (new / tar.relative_to(OLD)).read_bytes()
    assert read_sidecar(Location.of(new / "shards"), "000000").sources is not None
    before, now = (FeatureStore.open(str(root / "features")) for root in (OLD, new))
    assert {unit: now.sources_of(unit) for unit in now.units} == {unit: before.sources_of(unit) for unit in now.units}


def test_features_tokens_and_networks_are_made_from_them(old: Path, tmp_path: Path) -> None:
    make_features(old / "shards", tmp_path / "features", views="2")
    make_tokens(old / "features", tmp_path / "tokens")
    made = FeatureStore.open(str(tmp_path / "features"))
    assert made.identity == FeatureStore.open(str(old / "features")).identity
    assert format_of(tmp_path / "features/index.json") == 4
    assert format_of(next((tmp_path / "tokens/v001").glob("000000-*")) / "zarr.json") == 4
    names = {source_name(path.relative_to(OLD / "videos").as_posix()) for path in (OLD / "videos").rglob("*.mp4")}
    for store in (made, TokenStore.open(str(tmp_path / "tokens"))):
        assert {source for unit in store.units for source in store.sources_of(unit)} == names
    short: dict[str, Any] = {"steps": 2, "validate_every": 2, "checkpoint_every": 2, "last_every": 2}
    for name, data in (("cached", "features"), ("live", "shards")):
        config = tokenizer_config(str(old / data), tmp_path / name, **short)
        assert train(config, "tokenizer").step == 2
    config = world_config(str(old / "tokens"), tmp_path / "world", **short, frames=3)
    assert train(config, "world").step == 2


def test_a_head_is_trained_and_evaluated_on_them(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"shards": str(old / "vspw-shards"), "data": str(old / "vspw-features"), "out": str(tmp_path / "head")}
    short = {"steps": 2, "batch_size": 4, "effective_batch": 4, "validate_every": 2, "validation_fraction": 0.3}
    config = HeadConfig(dataset="vspw", size=64, wandb="disabled", **settings, **short)
    assert train(config, "head").step == 2
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    kept = {"vspw-shards": "shards/vspw-val-64", "vspw-features": "features/vspw-val-backbone-64"}
    for name, place in kept.items():
        shutil.copytree(old / name, tmp_path / "home" / place)
    evaluate(tiny("vspw", world=None, dinoworld=None, out=str(tmp_path / "report")), quiet)
    assert (tmp_path / "report/metrics.json").exists()
    assert format_of(tmp_path / "home" / kept["vspw-features"] / "v000/000000/zarr.json") == 1
    assert len(list((tmp_path / "home").glob("*/*"))) == 2  # they were used, and nothing was made


@pytest.mark.parametrize("name", ["shards", "features", "tokens", "vspw-shards", "vspw-features"])
def test_they_are_described_and_verified(old: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(old / name)]) == 0
    assert main(["info", str(old / name)]) == 0
    assert "21" in capsys.readouterr().out or name.startswith("vspw")


def test_a_set_that_grows_holds_shards_of_both_formats(old: Path) -> None:
    """The shards that are there keep their bytes, and so do their features; what is added records its sources."""
    before = {path: path.read_bytes() for path in old.glob("shards/0*")}
    make_video(old / "videos" / "c" / "new one.mp4", frames=50)
    ingest_videos(old / "videos", old / "shards")
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [format_of(old / f"shards/00000{unit}.json") for unit in range(3)] == [1, 1, 2]
    make_features(old / "shards", old / "features", views="2")
    make_tokens(old / "features", old / "tokens")
    for kind in ("features", "tokens"):
        assert [format_of(old / f"{kind}/v001/00000{unit}/zarr.json") for unit in range(3)] == [1, 1, 2]
        assert format_of(old / kind / "index.json") == 2
        assert main(["verify", str(old / kind)]) == 0
    stored = {len(json.loads(path.read_text())["shape"]) for path in old.glob("tokens/v*/*/tokens/zarr.json")}
    assert stored == {3}  # without the axis `token`, which readers see all the same
    with TokenStore.open(str(old / "tokens")) as grown, TokenStore.open(str(OLD / "tokens")) as before_growth:
        assert grown.read_clips(range(len(grown))).shape == (len(grown), 3, 1, 128)
        assert torch.equal(grown.read_clips(range(3)), before_growth.read_clips(range(3)))
    shards, features = ShardSet.open(str(old / "shards")), FeatureStore.open(str(old / "features"))
    for unit in shards.units:
        assert tuple(features.sources_of(unit)) == shards.sources_of(unit)
    assert set(shards.sources_of("000002")) == {source_name("c/new one.mp4")}
    held = keys_of(shards, select(shards, 0.5)[1])
    assert set(SPLITS["0.5"]["shards"]) <= set(held)
    assert held == keys_of(features, select(features, 0.5)[1])


def test_a_set_whose_record_was_lost_is_made_up_from_its_shards(old: Path) -> None:
    (old / "shards/sources-001.json").unlink()
    make_video(old / "videos" / "c" / "new one.mp4", frames=50)
    ingest_videos(old / "videos", old / "shards")
    assert ShardSet.open(str(old / "shards")).units == ["000000", "000001", "000002"]


@pytest.mark.parametrize("damage", [lambda root: flip(root / "v001/000000/features/c/0/0/0/0", 500), lambda root: None])
def test_a_store_is_repaired_from_them(old: Path, damage: Callable[[Path], None]) -> None:
    root = old / "features"
    damage(root)
    (root / "quarantine.jsonl").write_bytes(b"?\n")
    places = ["--shards", str(old / "shards"), "--backbone", str(BACKBONE)]
    assert main(["verify", str(root), "--repair", "--yes", "--device", "cpu", *places]) == 0
    assert main(["verify", str(root)]) == 0
    assert format_of(root / "index.json") == 2
    store = FeatureStore.open(str(root))
    assert keys_of(store, select(store, 0.5)[1]) == SPLITS["0.5"]["features"]
    sources = {view: read_group_file(Location.of(root), view, "000000").sources for view in (0, 1)}
    assert sources[0] is None


def test_a_shard_is_taken_out_and_made_again(old: Path) -> None:
    flip(old / "shards/000001.tar", 2000)
    assert main(["verify", str(old / "shards"), "--repair", "--yes"]) != 2
    ingest_videos(old / "videos", old / "shards")
    assert [format_of(old / f"shards/00000{unit}.json") for unit in range(2)] == [1, 2]
    assert (old / "shards/000001.tar").read_bytes() == (OLD / "shards/000001.tar").read_bytes()
    shards = ShardSet.open(str(old / "shards"))
    assert keys_of(shards, select(shards, 0.5)[1]) == SPLITS["0.5"]["shards"]
