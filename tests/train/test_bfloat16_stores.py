"""Training from bfloat16 sees exactly the numbers that are stored, as training from float16 with the same numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_stores import TOKENIZER, run, tokens
from small_training import make_shards, tokenizer_config, world_config

from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.numbers import stored_numbers
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.writer import group_writer
from deltactl.locations import Location
from deltactl.train.data.sources import start_clips
from deltactl.train.run import train
from deltactl.train.steps.frozen import Frozen

STEPS: dict[str, Any] = {"steps": 3, "log_every": 1, "warmup_steps": 0, "validate_every": 3}
MADE_OF_A_GROUP = ("identity", "provenance", "view", "shard", "shard_sha256", "quarantined")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards") / "bars", clips=6)


def losses(run_folder: Path) -> list[float]:
    with (run_folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def refill(store: Path, source: Path) -> None:
    """Give a float16 store the numbers of a bfloat16 store of the same clips."""
    root = Location.of(store)
    with FeatureStore.open(str(source)) as there, FeatureStore.open(str(store)) as here:
        layout, units, grid = here.layout, here.units, here.grid
        found = {}
        for unit in units:
            samples = there.samples_of(0, unit)[0]
            small = {
                "times": there.times(samples).numpy(),
                "crop": there.crops(samples).numpy(),
                "flip": there.flips(samples).numpy(),
            }
            found[unit] = (
                [there.keys[sample] for sample in samples],
                there.sources_of(unit),
                there.read_clips(samples).half(),
                small,
            )
    for unit, (keys, sources, clips, small) in found.items():
        attributes = json.loads((store / "v000" / unit / "zarr.json").read_text())["attributes"]
        with group_writer(root, 0, unit, layout, keys, sources, replace=True) as writer:
            for row, clip in enumerate(clips):
                writer.put(row, 0, stored_numbers(clip))
            writer.close(grid=grid, small=small, attributes={name: attributes[name] for name in MADE_OF_A_GROUP})
    finish(root, expected=list(units))


def test_the_losses_are_those_of_the_same_numbers_in_float16(shards: str, tmp_path: Path) -> None:
    run(Path(shards), tmp_path / "bfloat16", dtype="bfloat16")
    run(Path(shards), tmp_path / "float16")
    refill(tmp_path / "float16", tmp_path / "bfloat16")
    for name in ("bfloat16", "float16"):
        train(tokenizer_config(str(tmp_path / name), tmp_path / f"run-{name}", **STEPS), name)
    assert losses(tmp_path / "run-bfloat16") == pytest.approx(losses(tmp_path / "run-float16"), rel=1e-6)
    with FeatureStore.open(str(tmp_path / "bfloat16")) as store:
        batch = start_clips(store, [0, 3], torch.tensor([0, 1]).numpy())()
        assert batch.data.dtype == torch.bfloat16
        features = Frozen().features(batch).data
        bits = store.read_clips([0, 3]).view(torch.int16).to(torch.int32) << 16
        assert torch.equal(features, bits.view(torch.float32))


def test_a_world_model_trains_from_bfloat16_tokens_and_features(shards: str, tmp_path: Path) -> None:
    """Tokens are held in a table in memory; from features the tokenizer is in the loop."""
    run(Path(shards), tmp_path / "features", dtype="bfloat16")
    tokens(tmp_path / "features", tmp_path / "tokens", dtype="bfloat16")
    train(world_config(str(tmp_path / "tokens"), tmp_path / "from-tokens", **STEPS), "tokens")
    given = {"tokenizer": TOKENIZER}
    train(world_config(str(tmp_path / "features"), tmp_path / "from-features", **STEPS, **given), "features")
    cached, live = losses(tmp_path / "from-tokens"), losses(tmp_path / "from-features")
    assert len(cached) == 3
    assert cached == pytest.approx(live, rel=2e-2)
