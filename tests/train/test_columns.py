"""Columns in training batches: those of the clips and frames that a batch shows, wherever its samples are read from."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import (
    BACKBONE,
    COLUMNS,
    FRAMES,
    SIZE,
    columns_of,
    make_features,
    make_shards,
    tokenizer_config,
    world_config,
)

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import DamagedError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.shards.columns import Column
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.tokenization.run import run as tokenize
from deltactl.train.data.batches import Batch
from deltactl.train.data.carried import alike, joined, of_pairs
from deltactl.train.data.live import LiveClips
from deltactl.train.data.mixed import MixedSource
from deltactl.train.data.mixing import Mixing
from deltactl.train.data.selection import select
from deltactl.train.data.sources import StoreClips, StorePairs, TokenClips, TokenTable
from deltactl.train.data.validation import InOrder
from deltactl.train.run import train

NUMBERS = ("actions", "clip.camera", "gripper", "number")
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
PLACES = np.array([3, 0, 7, 2, 9, 4, 1, 8])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("columns") / "shards", clips=5, columns=COLUMNS)


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("columns") / "features")


@pytest.fixture(scope="module")
def tokens(features: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("columns") / "tokens")
    settings = {"backbone": str(BACKBONE), "size": SIZE, "device": "cpu", "workers": 0}
    tokenize(TokenizeConfig(data=features, out=out, tokenizer=TOKENIZER, **settings))
    return out


@pytest.fixture(scope="module")
def clips(shards: str) -> dict[str, Clip]:
    opened = ShardSet.open(shards)
    return {clip.key: clip for unit in opened.units for clip in opened.read(unit)}


def check(batch: Batch, keys: Sequence[str], clips: dict[str, Clip], frames: Sequence[Sequence[int]]) -> None:
    """Check that a batch has the columns of these clips, at these frames of each."""
    assert tuple(batch.columns) == NUMBERS
    for place, (key, shown) in enumerate(zip(keys, frames, strict=True)):
        for name, values in batch.columns.items():
            whole = columns_of(clips[key])[name]
            expected = whole if name.startswith("clip.") else whole[list(shown)]
            assert values.dtype == torch.from_numpy(whole).dtype
            np.testing.assert_array_equal(values[place].numpy(), expected)


ALL = [range(FRAMES)] * len(PLACES)


def test_clips_of_stores_come_with_their_columns(features: str, tokens: str, clips: dict[str, Clip]) -> None:
    for store in (FeatureStore.open(features), TokenStore.open(tokens)):
        source = StoreClips(store, select(store, 0.0)[0], InOrder())
        check(source.start(PLACES)(), source.keys(PLACES), clips, ALL)


def test_pairs_come_with_those_of_their_two_frames(features: str, clips: dict[str, Clip]) -> None:
    store = FeatureStore.open(features)
    source = StorePairs(store, select(store, 0.0)[0], InOrder(), 0)
    first = [frame for _, frame in source.pairs(PLACES)]
    assert len(set(first)) > 1
    check(source.start(PLACES)(), source.keys(PLACES), clips, [(frame, frame + 1) for frame in first])


def test_tokens_in_memory_come_with_those_of_the_store(tokens: str, clips: dict[str, Clip], tmp_path: Path) -> None:
    store, name = TokenStore.open(tokens), str(tmp_path)
    TokenTable.fill(store, name)
    table = TokenTable(store, name, torch.device("cpu"))
    TokenTable.remove(name)
    assert torch.equal(table.tokens, store.read_clips(range(len(store))))
    source = TokenClips(table, store, select(store, 0.0)[0], InOrder())
    check(source.start(PLACES)(), source.keys(PLACES), clips, ALL)


@pytest.mark.parametrize("take", ["clips", "pairs"])
def test_live_they_are_those_of_the_shards(take: str, shards: str, features: str, clips: dict[str, Clip]) -> None:
    opened, store = ShardSet.open(shards), FeatureStore.open(features)
    how = {"frames": FRAMES, "size": FrameSize.of(32), "seed": 0, "threads": 2}
    live = LiveClips(RandomAccess(opened), select(opened, 0.0)[0], InOrder(), take=take, **how)  # type: ignore[arg-type]
    pairs = StorePairs(store, select(store, 0.0)[0], InOrder(), 0).pairs(PLACES)
    frames = ALL if take == "clips" else [(frame, frame + 1) for _, frame in pairs]
    check(live.start(PLACES)(), live.keys(PLACES), clips, frames)


def test_live_a_step_of_several_frames_has_those_of_its_last_one(shards: str, clips: dict[str, Clip]) -> None:
    opened = ShardSet.open(shards)
    how = {"frames": FRAMES, "size": FrameSize.of(32), "seed": 0, "threads": 2, "frames_per_step": 2}
    live = LiveClips(RandomAccess(opened), select(opened, 0.0)[0], InOrder(), take="clips", **how)  # type: ignore[arg-type]
    check(live.start(PLACES)(), live.keys(PLACES), clips, [(1, 3)] * len(PLACES))


def test_live_a_clip_that_lacks_them_is_named(tmp_path: Path) -> None:
    key = ShardSet.open(make_shards(tmp_path / "bare", units=1, clips=3)).keys("000000")[1]
    opened = ShardSet.open(make_shards(tmp_path / "shards", units=1, clips=3, columns=COLUMNS, lacking=key))
    how = {"frames": FRAMES, "size": FrameSize.of(32), "seed": 0, "threads": 1}
    live = LiveClips(RandomAccess(opened), select(opened, 0.0)[0], InOrder(), take="clips", **how)  # type: ignore[arg-type]
    with pytest.raises(DamagedError, match=rf"clip {key} of shard 000000 cannot be used: it has the columns none"):
        live.start(np.arange(3))()


def test_a_mixture_has_what_all_its_sets_have_alike(features: str, clips: dict[str, Clip]) -> None:
    store = FeatureStore.open(features)
    sources = [StorePairs(store, select(store, 0.0)[0], InOrder(), seed) for seed in (0, 1)]
    other = (replace(COLUMNS[0], shape=(4,)), *COLUMNS[1:4])
    names = alike([COLUMNS, other])
    assert names == ("clip.camera", "gripper")
    mixed = MixedSource(sources, ["one", "two"], Mixing([Fraction(1, 2)] * 2), columns=names)
    batch = mixed.start(np.arange(6))()
    assert tuple(batch.columns) == names
    keys = [mixed.keys(batch.places[place : place + 1])[0].partition(" of ")[0] for place in range(6)]
    for place, key in enumerate(keys):
        np.testing.assert_array_equal(
            batch.columns["clip.camera"][place].numpy(), columns_of(clips[key])["clip.camera"]
        )
    assert batch.columns["gripper"].shape == (6, 2)


def test_unsigned_numbers_of_every_size_are_chosen_and_joined() -> None:
    for dtype in ("uint8", "uint16", "uint32", "uint64", "float16", "bool"):
        values = torch.from_numpy((np.arange(12).reshape(3, 4) % 2 * 200).astype(dtype))
        index = torch.tensor([[0, 1], [2, 3], [1, 2]])
        chosen = of_pairs({"a": values, "clip.a": values}, index)
        np.testing.assert_array_equal(chosen["a"].numpy(), np.take_along_axis(values.numpy(), index.numpy(), 1))
        assert chosen["clip.a"] is values
        both = joined([chosen, chosen], ["a"])["a"]
        assert (both.dtype, both.shape) == (values.dtype, (6, 2))


def test_sets_without_numbers_have_nothing_alike() -> None:
    assert alike([COLUMNS, ()]) == ()
    assert alike([(Column("clip.text", "text", ()),)] * 2) == ()


def test_runs_train_on_data_with_columns_as_on_data_without(
    shards: str, features: str, tokens: str, tmp_path: Path
) -> None:
    bare = make_features(make_shards(tmp_path / "shards", clips=5), tmp_path / "features")
    changes = {"steps": 2, "log_every": 1}
    losses = []
    for name, data in (("with", features), ("without", bare)):
        train(tokenizer_config(data, tmp_path / name, **changes), "run")
        with (tmp_path / name / "metrics.csv").open() as file:
            losses.append([row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]])
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    train(tokenizer_config(shards, tmp_path / "live", **changes), "run")
    train(world_config(tokens, tmp_path / "world", **changes), "run")
