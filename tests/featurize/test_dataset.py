"""A store as a data set of PyTorch: items, pairs, columns, splits, workers, and the probe that the page shows."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from small_shards import encode
from small_training import COLUMNS, FRAMES, columns_of, make_features, make_shards, moving_clips
from token_stores import all_numbers, make_store, unit_names
from torch.utils.data import DataLoader

from deltactl.artifacts import Identity, open_artifact
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.store.dataset import StoreDataset
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.columns import Column, columns_to_json
from deltactl.ingest.shards.format import Clip, ShardSet, finish, write_shard
from deltactl.locations import Location
from deltactl.train.data.selection import select

PATIENCE_SECONDS = 300
STRIPES, SOLID = "stripes", "a solid ground"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("dataset") / "shards", clips=6, columns=COLUMNS)


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("dataset") / "features", views="2")


def test_an_item_holds_what_the_page_names(shards: str, features: str) -> None:
    with StoreDataset(features) as data, FeatureStore.open(features) as store:
        assert len(data) == len(store) == 24
        clips = {clip.key: clip for unit in ("000000", "000001") for clip in ShardSet.open(shards).read(unit)}
        for number in (0, 17, -1):
            item, sample = data[number], number % len(data)
            assert list(item) == ["features", "times", "key", "source", "view", "sample", "columns"]
            assert torch.equal(item["features"], store[sample])
            assert item["features"].dtype == torch.float16
            assert torch.equal(item["times"], store.times([sample])[0])
            assert (item["key"], item["view"], item["sample"]) == (store.keys[sample], sample // 12, sample)
            assert item["source"] == clips[item["key"]].source_name
            wanted = columns_of(clips[item["key"]])
            assert item["columns"].keys() == wanted.keys()
            assert item["columns"].pop("clip.text") == str(wanted["clip.text"])
            for name, values in item["columns"].items():
                np.testing.assert_array_equal(values.numpy(), wanted[name])
        assert data.texts("clip.text")[17] == data[17]["columns"]["clip.text"]
        assert "24 clips of features (4, 16, 128) float16; columns: actions (float32 (3,) a frame)" in repr(data)


def test_pairs_are_frames_that_follow_each_other_and_their_rows_of_the_columns(features: str) -> None:
    clips, pairs = StoreDataset(features), StoreDataset(features, take="pairs", columns=["actions", "clip.camera"])
    assert len(pairs) == (FRAMES - 1) * len(clips)
    for number in (0, 7, len(pairs) - 1):
        pair, (sample, first) = pairs[number], divmod(number, FRAMES - 1)
        clip, two = clips[sample], slice(first, first + 2)
        assert (pair["sample"], pair["first"], pair["key"]) == (sample, first, clip["key"])
        assert torch.equal(pair["features"], clip["features"][two])
        assert torch.equal(pair["times"], clip["times"][two])
        assert list(pair["columns"]) == ["actions", "clip.camera"]
        assert torch.equal(pair["columns"]["actions"], clip["columns"]["actions"][two])
        assert torch.equal(pair["columns"]["clip.camera"], clip["columns"]["clip.camera"])
    train, held = pairs.split(0.3)
    assert len(train) + len(held) == len(pairs)


def test_the_split_shares_no_source_and_is_that_of_training(features: str) -> None:
    data = StoreDataset(features)
    train, held = data.split(0.3)
    assert {data[number]["source"] for number in train.indices}.isdisjoint(
        {data[number]["source"] for number in held.indices}
    )
    _, as_in_training = select(FeatureStore.open(features), 0.3)
    assert sorted(as_in_training.samples.ravel().tolist()) == list(held.indices) != []


def same(one: object, other: object) -> bool:
    """Whether two batches hold the same."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return one == other


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("collate", [StoreDataset.collate, None])
def test_workers_give_the_batches_of_the_parent(features: str, method: str, collate: object) -> None:
    data = StoreDataset(features, take="pairs")
    expected = [data.batch(range(start, min(start + 16, len(data)))) for start in range(0, len(data), 16)]
    loader = DataLoader(
        data,
        batch_size=16,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context(method),
        collate_fn=collate,  # type: ignore[arg-type]
        timeout=PATIENCE_SECONDS,
    )
    assert all(map(same, list(loader), expected))
    assert same(pickle.loads(pickle.dumps(data)).batch([5, 2]), data.batch([5, 2]))


def test_tokens_are_the_same_data_set_packed_or_not(tmp_path: Path) -> None:
    units = unit_names(70)
    for pack in (True, False):
        root = make_store(tmp_path / str(pack), units, views=(0, 1), pack=pack)
        data, numbers = StoreDataset(root), all_numbers(StoreIndex.read(root))
        assert len(data) == len(numbers)
        order = np.random.default_rng(0).permutation(len(data)).tolist()
        assert (data.batch(order)["tokens"].numpy() == numbers[order]).all()
        assert data[3].keys() == {"tokens", "times", "key", "source", "view", "sample", "columns"}


def test_misuse_and_damage_are_named(features: str, tmp_path: Path) -> None:
    data = StoreDataset(features)
    for number in (24, -25):
        with pytest.raises(IndexError, match=f"item {number} of 24 in"):
            data[number]
    with pytest.raises(ValueError, match=r"has no column 'speed'; it has actions \(float32"):
        StoreDataset(features, columns=["speed"])
    with pytest.raises(ValueError, match="no column of texts 'actions'"):
        data.texts("actions")
    jaxtyping.config.update("jaxtyping_disable", True)  # which would refuse it first
    try:
        with pytest.raises(ValueError, match="'clips' or 'pairs' was expected"):
            StoreDataset(features, take="frames")  # type: ignore[arg-type]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="each of which stands for a pair"):
        StoreDataset(make_store(tmp_path / "tokens", unit_names(2)), take="pairs")
    with pytest.raises(ArtifactError, match="no whole view 7"):
        StoreDataset(features, views=[7])
    with pytest.raises(ArtifactError, match="does not exist; expected an artifact"):
        StoreDataset(str(tmp_path / "absent"))
    made = make_features(make_shards(tmp_path / "shards", units=1, clips=2), tmp_path / "features")
    place = tmp_path / "features" / "v000" / "000000" / "features" / "c.0.0.0.0"
    place.write_bytes(place.read_bytes()[:5000])
    with pytest.raises(DamagedError, match=r"c\.0\.0\.0\.0"):
        StoreDataset(made)[1]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_in_a_bucket_is_read_by_workers(tmp_path: Path, bucket: Location, method: str) -> None:
    local = make_features(make_shards(tmp_path / "shards", clips=4, columns=COLUMNS), tmp_path / "features")
    for path in sorted(Path(local).rglob("*")):
        if path.is_file():
            (bucket / path.relative_to(local).as_posix()).upload(path)
    with StoreDataset(bucket.url) as data:
        first = data[3]  # read by tensorstore, which does not survive a fork
        loader = DataLoader(
            data,
            batch_size=8,
            num_workers=2,
            collate_fn=data.collate,
            multiprocessing_context=multiprocessing.get_context(method),
            timeout=PATIENCE_SECONDS,
        )
        (batch,) = list(loader)
        assert same(batch, StoreDataset(local).batch(range(8)))
        assert torch.equal(batch["features"][3], first["features"])


# --- the page --------------------------------------------------------------------------------------------------------


def labelled(unit: int, clips: int) -> list[Clip]:
    """Return clips of stripes or of one colour; the column `clip.class` says which, the same for a whole video."""
    made = []
    for number, clip in enumerate(moving_clips(unit, clips)):
        image = np.full((72, 96, 3), 40, np.uint8)
        solid = number // 2 % 2
        image[:, 8 : 88 : 1 if solid else 8] = (220, 120, 60)
        names = {"clip.class": np.array(SOLID if solid else STRIPES)}
        made.append(replace(clip, frames=[encode(image)] * FRAMES, columns=names))
    return made


def test_the_probe_of_the_page_learns_on_four_workers(tmp_path: Path) -> None:
    (script,) = blocks(ROOT / "docs" / "pytorch.md", "python", marked=True)
    assert len(script.strip().splitlines()) <= 35
    columns = (Column("clip.class", "text", ()),)
    place = Location.of(tmp_path / "shards")
    values = {"dataset": "kinetics", "frames": FRAMES, "size": 64, "columns": columns_to_json(columns)}
    open_artifact(place, Identity("shards", values), {})
    for unit in range(2):
        write_shard(place, f"{unit:06d}", labelled(unit, 24), [], {})
    finish(place)
    make_features(str(place), tmp_path / "workspace/features/kinetics-vitb16-256")
    file = tmp_path / "probe.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    share, _, said = done.stdout.partition("% of ")
    assert int(share) >= 95
    assert said.endswith("held-out clips\n")
