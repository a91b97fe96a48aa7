"""Training the tokenizer: it learns, beats copying, shows its health, and leaves a run that others can use."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_stores import run
from small_training import FRAMES, make_features, make_shards, tokenizer_config

from deltactl.errors import ConfigError, IdentityError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.networks.losses import log_cosh
from deltactl.train.run import train
from deltactl.train.steps.health import ratios, tokenizer_health


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("tokenizer") / "shards")


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("tokenizer") / "features", views="2")


@pytest.fixture(scope="module")
def trained(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 300 steps."""
    out = tmp_path_factory.mktemp("tokenizer") / "run"
    settings: dict[str, Any] = {"validate_every": 100, "checkpoint_every": 150, "last_every": 100, "log_every": 20}
    train(tokenizer_config(store, out, steps=300, batch_size=16, effective_batch=16, **settings), "run")
    return out


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_the_loss_falls_and_reconstruction_beats_copying(trained: Path) -> None:
    losses = rows(trained, "train/loss")
    assert losses[-1] < 0.5 * losses[0]
    assert rows(trained, "health/copy")[-1] < 0.5
    assert rows(trained, "validation/copy")[-1] < 0.8


def test_the_token_matters(trained: Path) -> None:
    """With the tokens of other samples the reconstruction is worse."""
    assert rows(trained, "health/z_swap")[-1] > 1.1


def test_checkpoints_are_there_and_load(trained: Path, store: str) -> None:
    names = {path.name for path in (trained / "checkpoints").iterdir()}
    assert names == {"step-0000150.ckpt", "step-0000300.ckpt", "best.ckpt", "last.ckpt"}
    features = FeatureStore.open(store)
    pairs = features.read_pairs([(sample, 0) for sample in range(len(features))]).float()
    copied = log_cosh(pairs[:, 0], pairs[:, 1])
    for name in names:
        network = load(str(trained / "checkpoints" / name), TOKENIZER)
        with torch.no_grad():
            assert log_cosh(network(*pairs.unbind(1), features.grid), pairs[:, 1]) < copied
    assert read(str(trained / "checkpoints" / "last.ckpt")).contents.progress["step"] == 300


def test_a_checkpoint_holds_the_trained_parameters_and_plain_values_only(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    network = load(str(trained), TOKENIZER)
    assert content["state_dict"].keys() == {f"network.{name}" for name in network.state_dict()}
    assert content["deltactl"]["config"]["width"] == 128


def test_best_has_the_least_validation_loss(trained: Path) -> None:
    losses = rows(trained, "validation/loss")
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    steps = [100, 200, 300]
    assert content["global_step"] == steps[losses.index(min(losses))]


def test_the_run_says_how_it_came_about(trained: Path, store: str) -> None:
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    assert settings["stage"] == "tokenizer"
    assert settings["data"] == store
    assert settings["steps"] == 300
    start = yaml.safe_load((trained / "provenance.json").read_text())[0]
    assert {"torch", "lightning"} <= start["versions"].keys()
    assert "command" in start


def test_figures_say_speed_waiting_and_gradients(trained: Path) -> None:
    assert all(value > 0 for value in rows(trained, "train/samples_per_second"))
    assert all(0 <= value < 1 for value in rows(trained, "train/waiting"))
    assert all(value > 0 for value in rows(trained, "train/gradient_norm"))
    assert rows(trained, "train/lr")[-1] == 2e-3


def test_live_training_with_equal_crops_sees_what_the_store_holds(shards: str, store: str, tmp_path: Path) -> None:
    """Two epochs over the store's two views are two epochs of fresh crops; the losses agree."""
    changes: dict[str, Any] = {"steps": 4, "batch_size": 10, "effective_batch": 10, "log_every": 1, "warmup_steps": 0}
    for name, data in (("cached", store), ("live", shards)):
        train(tokenizer_config(data, tmp_path / name, validate_every=2, **changes), name)
    for column in ("train/loss", "validation/loss"):
        cached, live = (rows(tmp_path / name, column) for name in ("cached", "live"))
        assert live == pytest.approx(cached, rel=2e-3), column


def test_live_training_draws_crops_as_a_store_was_made(shards: str, tmp_path: Path) -> None:
    """Whole frames that are never mirrored, as in a store that is made so; and not as those of the default."""
    drawn: dict[str, Any] = {"crop_area": "1", "aspect": "0.5:2", "flip": 0.0}
    run(Path(shards), tmp_path / "store", views="2", **drawn)
    changes: dict[str, Any] = {"steps": 4, "batch_size": 10, "effective_batch": 10, "log_every": 1, "warmup_steps": 0}
    for name, data, settings in (
        ("cached", str(tmp_path / "store"), {}),
        ("live", shards, drawn),
        ("other", shards, {}),
    ):
        train(tokenizer_config(data, tmp_path / name, **changes, **settings), name)
    cached, live, other = (rows(tmp_path / name, "train/loss") for name in ("cached", "live", "other"))
    assert live == pytest.approx(cached, rel=2e-3)
    assert other != pytest.approx(cached, rel=2e-3)
    followed = yaml.safe_load((tmp_path / "cached" / "config.yaml").read_text())
    assert {name: followed[name] for name in drawn} == {"crop_area": "1", "aspect": "0.5:2", "flip": 0.0}
    with pytest.raises(ConfigError, match=r"flip is set to 0\.1, but .* has 0\.0; leave flip out, add --flip 0\.0"):
        train(tokenizer_config(str(tmp_path / "store"), tmp_path / "refused", **changes, flip=0.1), "refused")
    with pytest.raises(IdentityError, match=r"crop_area is 0\.6:1 there, 1 here"):
        train(tokenizer_config(shards, tmp_path / "live", **{**changes, "steps": 6}, resume="auto"), "live")


def test_several_pairs_of_a_clip_can_be_taken_at_a_visit(store: str, tmp_path: Path) -> None:
    result = train(tokenizer_config(store, tmp_path / "run", steps=6, pairs_per_clip=FRAMES - 1), "run")
    assert result.step == 6


def test_blocks_of_shards_are_an_order_of_their_own(store: str, tmp_path: Path) -> None:
    for name, blocks in (("global", {}), ("blocks", {"block_shards": 1})):
        changes: dict[str, Any] = {"steps": 2, "log_every": 1, "shuffle": name, **blocks}
        train(tokenizer_config(store, tmp_path / name, **changes), name)
    assert rows(tmp_path / "global", "train/loss") != rows(tmp_path / "blocks", "train/loss")


def test_initial_weights_come_from_a_checkpoint_with_the_step_at_0(trained: Path, store: str, tmp_path: Path) -> None:
    config = tokenizer_config(
        store, tmp_path / "run", steps=1, log_every=1, start="weights", init=str(trained), warmup_steps=10
    )
    assert train(config, "run").step == 1
    assert rows(tmp_path / "run", "train/lr") == [0.0]
    one, other = (
        load(str(run), TOKENIZER).state_dict() for run in (trained, tmp_path / "run" / "checkpoints" / "last.ckpt")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_repeats_and_the_batch_are_told(store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """22 clips × 2 views × 3 pairs; 3 steps of 8."""
    with caplog.at_level(logging.INFO, logger="deltactl"):
        train(tokenizer_config(store, tmp_path / "run", steps=3), "run")
    text = caplog.text
    assert "effective batch 8 = 8 samples × 1 device × 1 batch;" in text
    assert "the published recipe" not in text, "this network is not the one that the recipe is for"
    held_out = int(text.partition(" held out")[0].rpartition(" ")[2])
    assert f"3 steps repeat each sample {24 / ((24 - held_out) * 6):.3g} times" in text
    assert "repeats" not in text


def test_many_repeats_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two of four clips train, with three pairs each."""
    few = make_features(make_shards(tmp_path / "shards", units=1, clips=4), tmp_path / "features")
    train(tokenizer_config(few, tmp_path / "run", steps=1, batch_size=360, effective_batch=360), "run")
    assert "each sample repeats 60 times" in caplog.text


# --- health ----------------------------------------------------------------------------------------------------------


def test_a_decoder_that_ignores_the_token_is_found_out(trained: Path, store: str) -> None:
    """Without attention the decoder cannot see the token: its loss may fall, but the ratio is 1."""
    network, features = load(str(trained / "checkpoints" / "last.ckpt"), TOKENIZER), FeatureStore.open(store)
    # One view: the same clip in another view has a similar token.
    pairs = features.read_pairs([(sample, 0) for sample in range(len(features) // 2)]).float()

    def z_swap() -> float:
        losses = tokenizer_health(network, *pairs.unbind(1), features.grid)
        return ratios({name: float(value) for name, value in losses.items()})["z_swap"]

    assert z_swap() > 1.1
    with torch.no_grad():
        for block in network.decoder_blocks:
            block.layer_scale1.lambda1.zero_()
    assert z_swap() == pytest.approx(1)


def test_one_pair_has_nothing_to_swap_with(golden: Path) -> None:
    network = load(str(golden / "deltatok.bin"), TOKENIZER)
    losses = tokenizer_health(network, torch.randn(1, 16, 128), torch.randn(1, 16, 128), (4, 4))
    assert losses.keys() == {"loss", "copied"}
