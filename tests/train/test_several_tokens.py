"""Tokenizers of several tokens a frame through the stages: trained, tokenized, and world models that follow them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_vectors import awake
from programs import caller
from small_training import BACKBONE, FRAMES, make_features, make_shards, tokenizer_config, world_config

from deltactl.cli import main
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld
from deltactl.train.run import train

SHORT: dict[str, Any] = {"steps": 4, "validate_every": 2, "checkpoint_every": 2, "last_every": 2, "log_every": 1}
SIZES = [(1, None), (1, 32), (4, None), (4, 32)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("several") / "shards")


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("several") / "features", views="2")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer of four tokens a frame, each 32 wide."""
    place = tmp_path_factory.mktemp("several") / "tokenizer.bin"
    config = DeltaTokConfig(width=128, depth=1, tokens_per_frame=4, token_dim=32)
    torch.save(awake(DeltaTok(config)).state_dict(), place)
    return str(place)


@pytest.fixture(scope="module")
def tokens(features: str, tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("several") / "tokens")
    tokenize(TokenizeConfig(data=features, out=out, tokenizer=tokenizer, device="cpu", workers=0))
    return out


def losses(run: Path, column: str = "train/loss") -> list[float]:
    return [float(row[column]) for row in csv.DictReader(io.StringIO((run / "metrics.csv").read_text())) if row[column]]


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_every_size_goes_from_features_to_a_world_model(
    count: int, dim: int | None, features: str, tmp_path: Path
) -> None:
    sizes = {"width": 128, "depth": 1, "layer_scale": 0.1, "tokens_per_frame": count, "token_dim": dim}
    assert train(tokenizer_config(features, tmp_path / "tokenizer", network=sizes, **SHORT), "tokenizer").step == 4
    network = load(str(tmp_path / "tokenizer"), TOKENIZER)
    assert (network.config.tokens_per_frame, network.config.token_width) == (count, dim or 128)
    place = str(tmp_path / "tokenizer")
    out = str(tmp_path / "tokens")
    tokenize(TokenizeConfig(data=features, out=out, tokenizer=place, device="cpu", workers=0))
    with TokenStore.open(out) as made, FeatureStore.open(features) as store:
        read_back = made.read_clips([0, 1])
        assert read_back.shape == (2, FRAMES, count, dim or 128)
        expected = network.encode_clip(store.read_clips([0, 1]).float(), store.black, store.grid)
        assert torch.allclose(read_back.float(), expected, atol=2e-3)
    assert train(world_config(out, tmp_path / "world", **SHORT), "world").step == 4
    world = load(str(tmp_path / "world"), WORLD)
    assert (world.config.tokens_per_frame, world.config.token_dim) == (count, dim or 128)
    assert len(losses(tmp_path / "world", "health/spread")) == 4


def test_the_command_has_options_for_them(features: str, tmp_path: Path) -> None:
    few = ("--steps", "1", "--batch-size", "8", "--set", "effective_batch=8", "--set", "wandb=disabled")
    sizes = ("--tokens-per-frame", "3", "--token-dim", "16", "--set", "network.depth=1")
    assert main(["train", "tokenizer", features, "--out", str(tmp_path / "run"), *few, *sizes]) == 0
    assert read(str(tmp_path / "run")).config == DeltaTokConfig(width=128, depth=1, tokens_per_frame=3, token_dim=16)
    settings = (tmp_path / "run/config.yaml").read_text()
    assert "tokens_per_frame: 3" in settings
    assert "token_dim: 16" in settings
    # Gone on with, what was given before need not be given again.
    assert (
        main(["train", "tokenizer", features, "--out", str(tmp_path / "run"), "--resume", "auto", "--steps", "2"]) == 0
    )


def test_tokens_features_and_shards_give_the_same_losses(
    tokens: str, features: str, shards: str, tokenizer: str, tmp_path: Path
) -> None:
    changes = {**SHORT, "batch_size": 10, "effective_batch": 10}
    for name, data in (("tokens", tokens), ("features", features), ("shards", shards)):
        given = {} if name == "tokens" else {"tokenizer": tokenizer}
        train(world_config(data, tmp_path / name, **changes, **given), name)
    for column in ("train/loss", "validation/loss"):
        values = {name: losses(tmp_path / name, column) for name in ("tokens", "features", "shards")}
        assert values["features"] == pytest.approx(values["tokens"], rel=1e-3), column
        assert values["shards"] == pytest.approx(values["tokens"], rel=3e-3), column


def test_a_future_of_a_frame_is_one_draw(tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many numbers are drawn as for one token a frame, and the same ones."""
    drawn: list[tuple[int, ...]] = []
    forward = DeltaWorld.forward

    def noted(self: DeltaWorld, tokens: torch.Tensor, times: torch.Tensor, queries: torch.Tensor, *rest: Any) -> Any:
        drawn.append((tuple(tokens.shape), tuple(queries.shape)))
        return forward(self, tokens, times, queries, *rest)

    monkeypatch.setattr(DeltaWorld, "forward", noted)
    train(world_config(tokens, tmp_path / "run", **{**SHORT, "steps": 2}), "run")
    assert ((8, FRAMES, 4, 32), (8, FRAMES - 1, 4, 64)) in drawn


# --- what does not belong together -----------------------------------------------------------------------------------


def saved(path: Path, **sizes: Any) -> str:
    torch.save(DeltaTok(DeltaTokConfig(**{"width": 128, "depth": 1, **sizes})).state_dict(), path)
    return str(path)


def test_a_tokenizer_of_other_tokens_than_the_stores_is_refused_with_both(tokens: str, tmp_path: Path) -> None:
    other = saved(tmp_path / "other.bin", tokens_per_frame=2)
    with pytest.raises(
        ConfigError,
        match=r"has 4 tokens a frame, 32 wide, but --tokenizer .*other.bin makes 2 tokens a frame, 128 wide",
    ):
        train(world_config(tokens, tmp_path / "run", tokenizer=other, **SHORT), "run")


def test_a_tokenizer_of_other_features_is_refused_with_both_widths(features: str, shards: str, tmp_path: Path) -> None:
    narrow = saved(tmp_path / "narrow.bin", width=64)
    for data in (features, shards):
        with pytest.raises(ConfigError, match=r"are 128 wide, but --tokenizer .*narrow.bin was made for 64"):
            train(world_config(data, tmp_path / "run", tokenizer=narrow, **SHORT), "run")


@pytest.mark.parametrize("way", ["init", "resume"])
def test_a_world_model_of_other_tokens_is_not_gone_on_with(
    way: str, tokens: str, features: str, tmp_path: Path
) -> None:
    plain = saved(tmp_path / "plain.bin")
    train(world_config(features, tmp_path / "one", tokenizer=plain, **SHORT), "one")
    wanted = r"one.* is a world model of 1 token a frame, 128 wide, but .*tokens has 4 tokens a frame, 32 wide"
    with pytest.raises(ConfigError, match=wanted):
        train(world_config(tokens, tmp_path / "two", **{way: str(tmp_path / "one")}, **SHORT), "two")
    four = saved(tmp_path / "four.bin", tokens_per_frame=4)
    wanted = r"1 token a frame, 128 wide, but --tokenizer .*four.bin has 4 tokens a frame, 128 wide"
    with pytest.raises(ConfigError, match=wanted):
        train(world_config(features, tmp_path / "two", tokenizer=four, **{way: str(tmp_path / "one")}, **SHORT), "two")


def test_a_tokenizer_goes_on_with_the_tokens_that_it_began_with(features: str, tmp_path: Path) -> None:
    sizes = {"width": 128, "depth": 1, "layer_scale": 0.1}
    config = tokenizer_config(
        features, tmp_path / "run", network={**sizes, "tokens_per_frame": 4, "token_dim": 32}, **SHORT
    )
    train(config, "run")
    for name, value, wanted in (
        ("tokens_per_frame", 2, r"network.tokens_per_frame is set to 2, but .* has 4; .*--tokens-per-frame 4"),
        ("token_dim", 64, r"network.token_dim is set to 64, but .* has 32; .*--token-dim 32"),
    ):
        again = tokenizer_config(
            features, tmp_path / "run", resume="auto", network={**sizes, name: value}, **{**SHORT, "steps": 6}
        )
        with pytest.raises(ConfigError, match=wanted):
            train(again, "run")
    # What was not set follows the checkpoint, and a width may be said though it is the features' own.
    follows = {**SHORT, "steps": 6, "resume": "auto"}
    assert train(tokenizer_config(features, tmp_path / "run", network={"layer_scale": 0.1}, **follows), "run").step == 6
    train(tokenizer_config(features, tmp_path / "plain", network=sizes, **SHORT), "plain")
    said = tokenizer_config(features, tmp_path / "plain", network={**sizes, "token_dim": 128}, **follows)
    assert train(said, "plain").step == 6
    started = tokenizer_config(features, tmp_path / "new", init=str(tmp_path / "run"), network=sizes, **SHORT)
    train(started, "new")
    assert read(str(tmp_path / "new")).config.tokens_per_frame == 4
    other = tokenizer_config(
        features, tmp_path / "other", init=str(tmp_path / "run"), network={**sizes, "tokens_per_frame": 2}, **SHORT
    )
    with pytest.raises(CheckpointError, match="tokens_per_frame 4 there, 2 here"):
        train(other, "other")


def test_no_token_at_all_is_refused(capsys: pytest.CaptureFixture[str], features: str, tmp_path: Path) -> None:
    run = caller(capsys)
    for option in ("--tokens-per-frame", "--token-dim"):
        code, _, error = run("train", "tokenizer", features, option, "0", "--backbone", str(BACKBONE))
        assert code == 2
        assert "0 is not in the range x>=1" in error
