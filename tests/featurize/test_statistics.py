"""A store's index says mean and standard deviation of each channel over all clips that may be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import evaluation_shards, make_clip, training_shards, write_shards
from small_stores import run, tokens

from deltactl.artifacts import seal
from deltactl.commands.info import describe
from deltactl.errors import DamagedError
from deltactl.featurize.pipeline.events import Found
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.numbers import real_numbers
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.store.writer import group_metadata, group_writer
from deltactl.fields import Fields
from deltactl.locations import Location


def agrees(store: ClipStore) -> None:
    """Check what the index says against NumPy on all that is read back."""
    values = store.read_clips(range(len(store))).double().numpy()
    vectors = values.reshape(-1, values.shape[-1])
    said = store.statistics
    assert said is not None
    assert said.count == len(vectors)
    assert np.allclose(said.mean, vectors.mean(0), rtol=1e-6, atol=1e-7)
    assert np.allclose(said.std, vectors.std(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_they_are_those_of_what_is_read_back(tmp_path: Path, dtype: str) -> None:
    """Two views of two shards, of which one clip cannot be decoded; features, and tokens made of them."""
    clips = [make_clip(f"clip{number}") for number in range(5)]
    clips[1] = replace(clips[1], frames=[clips[1].frames[0][:300], *clips[1].frames[1:]])
    write_shards(tmp_path / "shards", [clips[:3], clips[3:]])
    run(tmp_path / "shards", tmp_path / "features", views="2", dtype=dtype)
    tokens(tmp_path / "features", tmp_path / "tokens", dtype=dtype)
    with FeatureStore.open(str(tmp_path / "features")) as features, TokenStore.open(str(tmp_path / "tokens")) as made:
        agrees(features)
        agrees(made)


def test_square_crops_without_a_second_view_count_once(tmp_path: Path) -> None:
    evaluation_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store")
    with FeatureStore.open(str(tmp_path / "store")) as store:
        agrees(store)


def test_they_do_not_depend_on_batches_workers_or_the_order_of_groups(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=3)
    run(tmp_path / "shards", tmp_path / "one")
    run(tmp_path / "shards", tmp_path / "other", part="3/3")
    run(tmp_path / "shards", tmp_path / "other", workers=2)
    one, other = (json.loads((tmp_path / name / "index.json").read_text()) for name in ("one", "other"))
    assert one["statistics"] == other["statistics"]
    run(tmp_path / "shards", tmp_path / "batches", batch_size=5)
    batches = FeatureStore.open(str(tmp_path / "batches")).statistics
    assert batches is not None
    assert np.allclose(batches.mean, one["statistics"]["mean"], rtol=1e-5, atol=1e-6)


def test_an_index_that_is_made_again_says_the_same(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=2)
    run(tmp_path / "shards", tmp_path / "store")
    before = (tmp_path / "store" / "index.json").read_bytes()
    (tmp_path / "store" / "index.json").unlink()
    run(tmp_path / "shards", tmp_path / "store")
    assert (tmp_path / "store" / "index.json").read_bytes() == before


def test_info_shows_their_range_or_that_a_group_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store", crop_area="0.8:1")
    store = FeatureStore.open(str(tmp_path / "store"))
    assert store.statistics is not None
    facts = describe(str(tmp_path / "store"))["artifact"]
    assert facts["channel means"] == f"{store.statistics.mean.min():.4g} to {store.statistics.mean.max():.4g}"
    assert facts["channel standard deviations"].startswith(f"{store.statistics.std.min():.4g} to ")
    assert facts["random crops"] == "area 0.8:1, aspect ratio 0.75:4/3, mirrored 0.5"
    assert describe(str(tmp_path / "shards"))["artifact"]["kind"] == "shards (WebDataset)"
    forget(tmp_path / "store" / "v000" / "000000" / "zarr.json")
    finish(Location.of(tmp_path / "store"), expected=["000000"])
    assert FeatureStore.open(str(tmp_path / "store")).statistics is None
    assert "statistics" not in json.loads((tmp_path / "store" / "index.json").read_text())
    facts = describe(str(tmp_path / "store"))["artifact"]
    assert facts["channels"] == "mean and standard deviation were not recorded"


def forget(file: Path) -> None:
    """Make a group's attributes those of a version that did not record statistics."""
    attributes = json.loads(file.read_text())["attributes"]
    del attributes["statistics"], attributes["sha256"]
    file.write_bytes(group_metadata(seal(attributes)))


def test_a_group_whose_clips_all_failed_counts_nothing(tmp_path: Path) -> None:
    root, layout = Location.of(tmp_path / "store"), Layout("features", 2, (4, 8))
    with group_writer(root, 0, "000000", layout, ["a"], ["a"]) as writer:
        writer.invalidate(0)
        sealed = writer.close(
            grid=(2, 2),
            small={"times": np.zeros((1, 2)), "crop": np.zeros((1, 4)), "flip": np.zeros(1)},
            attributes={},
        )
    assert sealed["statistics"] == {"count": 0, "mean": [0.0] * 8, "std": [0.0] * 8}


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e3),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_merged_parts_are_the_whole(sizes: list[int], mean: float, std: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(mean, std, (sum(sizes), 3))
    parts = [Statistics.of(part) for part in np.split(values, np.cumsum(sizes)[:-1])]
    merged = Statistics.merged(parts, 3)
    assert merged.count == len(values)
    if len(values):
        assert np.allclose(merged.mean, values.mean(0), rtol=1e-12)
        assert np.allclose(merged.std, values.std(0), rtol=1e-9)


def test_values_whose_squares_float32_cannot_hold_are_taken_in_float64(tmp_path: Path) -> None:
    bits = np.full((1, 2, 4), 0x7F00, np.uint16)  # 1.7e38
    found = Found(np.zeros(1, np.float32), np.zeros((1, 4), np.float32), np.full((1, 4), np.inf, np.float32))
    assert found.statistics(0, 2) is None
    said = Statistics.of(real_numbers(bits))
    assert said.mean.tolist() == [2.0**127] * 4
    assert said.std.tolist() == [0.0] * 4


@pytest.mark.parametrize("change", [{"count": -1}, {"mean": [1.0]}, {"std": [None] * 2}, {"mean": [float("nan")] * 2}])
def test_what_is_none_is_damage(change: dict[str, Any]) -> None:
    said = {"statistics": {"count": 3, "mean": [0.0, 1.0], "std": [1.0, 1.0], **change}}
    with pytest.raises(DamagedError, match="statistics"):
        Statistics.read(Fields(said, Location.of("/index.json")), 2)
