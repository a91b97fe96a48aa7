"""Columns in an object store: shards, features and tokens carry them there as on a disk; moto answers on loopback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sidecars import make_robots
from small_stores import run, tokens

from deltactl.configs.ingest import IngestConfig
from deltactl.errors import DamagedError
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.verify import Verification
from deltactl.ingest.run import run as ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.ingest.shards.verify import verify_shards
from deltactl.locations import Location

# moto, botocore and aiohttp leave sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def check(store: ClipStore, shards: ShardSet) -> None:
    """Check that samples carry what their clips do, in any order."""
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    numbers, texts = store.start_columns(order)(), store.texts(order)
    access = RandomAccess(shards)
    for place, sample in enumerate(order):
        told = access.columns(store.unit_of(sample), store.keys[sample])
        for name, values in numbers.items():
            np.testing.assert_array_equal(values[place].numpy(), told[name])
        assert texts["clip.text"][place] == str(told["clip.text"])


def test_shards_features_and_tokens_in_a_bucket_carry_columns(tmp_path: Path, bucket: Location) -> None:
    videos = make_robots(tmp_path / "videos")
    places = {name: (bucket / name).url for name in ("shards", "features", "tokens")}
    cut = {"dataset": "folder", "clips": 2, "frames": 3, "shard_clips": 4, "size": 64, "workers": 0}
    ingest(IngestConfig(source=str(videos), out=places["shards"], columns="all", **cut))
    shards = ShardSet.open(places["shards"])
    assert [column.name for column in shards.columns] == [
        *("actions", "clip.camera", "clip.text", "gripper", "number", "pose"),
    ]
    assert verify_shards(shards.root) == []
    run(places["shards"], places["features"], views="2")  # type: ignore[arg-type]
    tokens(places["features"], places["tokens"])  # type: ignore[arg-type]
    for kind, name in ((FeatureStore, "features"), (TokenStore, "tokens")):
        with kind.open(places[name]) as store:
            assert len(store) == 12
            check(store, shards)
        assert Verification.of(places[name]).run() == []

    run(tmp_path / "videos", tmp_path / "local", views="2", videos={**cut_of(cut), "columns": "all"})
    with FeatureStore.open(places["features"]) as remote, FeatureStore.open(str(tmp_path / "local")) as local:
        samples = list(range(len(local)))
        for name, values in local.start_columns(samples)().items():
            assert torch.equal(remote.start_columns(samples)()[name], values)
        group = zarr.open_group(f"{places['features']}/v001/000001", mode="r")
        about = group["columns"].attrs["columns"]["number"]
        row = group["columns"][1, about["first_byte"] : about["first_byte"] + 24].view("<i8")
        last = remote.start_columns([len(remote) - 1])()["number"][0]
        assert row.tolist() == last.tolist()

    place = bucket / "features" / "v001/000001/columns/c.0.0"
    data = bytearray(place.read_bytes())
    data[5] ^= 1
    place.write_bytes(bytes(data))
    with FeatureStore.open(places["features"]) as store, pytest.raises(DamagedError, match="v001/000001"):
        store.start_columns(samples)()
    (finding,) = Verification.of(places["features"]).run()
    assert (finding.kind, finding.unit) == ("damaged", "v001/000001")
    assert "columns" in finding.path


def cut_of(config: dict) -> dict:
    """Return what of the settings of an ingest decides how clips are cut."""
    return {name: config[name] for name in ("dataset", "clips", "frames", "shard_clips")}
