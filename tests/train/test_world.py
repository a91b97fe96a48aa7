"""Training the world models: from tokens, features and shards alike, with figures that show whether noise matters."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import BACKBONE, SIZE, make_features, make_shards, world_config

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.store.reader import TokenStore
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.checkpoints.trained import mismatched_checkpoints
from deltactl.train.data.sources import TokenTable, _table_file
from deltactl.train.networks.deltaworld import WORLD
from deltactl.train.networks.dinoworld import DINOWORLD
from deltactl.train.run import train

TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("world") / "shards")


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("world") / "features", views="2")


@pytest.fixture(scope="module")
def tokens(features: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("world") / "tokens")
    tokenize(TokenizeConfig(data=features, out=out, tokenizer=TOKENIZER, device="cpu", workers=0))
    return out


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_the_loss_falls_and_the_model_loads(tokens: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"validate_every": 150, "checkpoint_every": 150, "log_every": 20, "lr": 3e-3}
    result = train(world_config(tokens, tmp_path / "run", steps=300, **changes), "run")
    assert result.step == 300
    losses = rows(tmp_path / "run", "train/loss")
    assert losses[-1] < 0.5 * losses[0]
    world = load(str(tmp_path / "run"), WORLD)
    assert (world.config.token_dim, world.config.width) == (128, 64)


def test_its_health_is_shown(tokens: str, tmp_path: Path) -> None:
    train(world_config(tokens, tmp_path / "run"), "run")
    for place in ("health", "validation"):
        assert all(value >= 1 for value in rows(tmp_path / "run", f"{place}/mean_over_best"))
        assert all(value > 0 for value in rows(tmp_path / "run", f"{place}/spread"))
    assert rows(tmp_path / "run", "validation/best") == rows(tmp_path / "run", "validation/loss")


def test_tokens_features_and_shards_give_the_same_losses(
    tokens: str, features: str, shards: str, tmp_path: Path
) -> None:
    """Two epochs: the two views, which live training crops the same way."""
    changes: dict[str, Any] = {"steps": 4, "batch_size": 10, "effective_batch": 10, "log_every": 1}
    for name, data in (("tokens", tokens), ("features", features), ("shards", shards)):
        given = {} if name == "tokens" else {"tokenizer": TOKENIZER}
        train(world_config(data, tmp_path / name, validate_every=2, **changes, **given), name)
    for column in ("train/loss", "validation/loss"):
        values = {name: rows(tmp_path / name, column) for name in ("tokens", "features", "shards")}
        assert values["features"] == pytest.approx(values["tokens"], rel=1e-3), column
        assert values["shards"] == pytest.approx(values["tokens"], rel=3e-3), column


@pytest.mark.parametrize("way", ["features", "shards"])
def test_dino_world_trains_from_features_and_live(way: str, features: str, shards: str, tmp_path: Path) -> None:
    config = world_config(
        features if way == "features" else shards,
        tmp_path / "run",
        steps=3,
        log_every=1,
        batch_size=4,
        effective_batch=4,
        network={"kind": "dinoworld", "width": 64, "depth": 1, "layer_scale": 0.1},
    )
    train(config, "run")
    assert len(rows(tmp_path / "run", "train/loss")) == 3
    assert load(str(tmp_path / "run" / "checkpoints" / "last.ckpt"), DINOWORLD).config.feature_dim == 128


def test_a_queries_draw_does_not_depend_on_the_batch_around_it(tokens: str, tmp_path: Path) -> None:
    """Batches of 8 and of 2 accumulated four times: the same samples, queries and loss."""
    for size in (8, 2):
        config = world_config(
            tokens, tmp_path / str(size), steps=3, log_every=1, batch_size=size, effective_batch=8, warmup_steps=0
        )
        train(config, "run")
    losses = [rows(tmp_path / str(size), "train/loss") for size in (8, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_token_table_holds_what_the_store_holds_and_leaves_no_file(
    tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()  # its own: other runs keep theirs where the system has them
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    store = TokenStore.open(tokens)
    name = str(tmp_path)
    TokenTable.fill(store, name)
    assert list((tmp_path / "temporary").glob("deltactl-tokens-*"))
    table = TokenTable(store, name, torch.device("cpu"))
    TokenTable.remove(name)
    assert torch.equal(table.tokens, store.read_clips(range(len(store))))
    assert torch.allclose(table.times, (store.times(range(len(store))) - 3.0).float(), atol=1e-5)
    train(world_config(tokens, tmp_path / "run", steps=1), "run")
    assert not list((tmp_path / "temporary").glob("deltactl-tokens-*"))


def test_tokens_too_large_for_memory_are_read_as_they_are_needed(
    tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"steps": 3, "log_every": 1}
    train(world_config(tokens, tmp_path / "memory", **changes), "run")
    monkeypatch.setattr("deltactl.train.data.sources.LARGEST_SHARE", 0.0)
    _table_file(str(tmp_path / "store")).write_bytes(bytes(100))  # of a run that was killed
    train(world_config(tokens, tmp_path / "store", **changes), "run")
    assert rows(tmp_path / "memory", "train/loss") == rows(tmp_path / "store", "train/loss")


def test_whether_tokens_fit_is_decided_once(tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that becomes free between the two looks of a start must not make it read a table that nobody filled."""
    changes: dict[str, Any] = {"steps": 3, "log_every": 1}
    train(world_config(tokens, tmp_path / "memory", **changes), "run")
    for name, answers in (("no", [False, True, True]), ("yes", [True, False, False])):
        looks = iter(answers)
        monkeypatch.setattr(TokenTable, "fits", lambda store, looks=looks: next(looks))
        train(world_config(tokens, tmp_path / name, **changes), "run")
        assert rows(tmp_path / "memory", "train/loss") == rows(tmp_path / name, "train/loss")


def test_a_tokenizer_is_asked_for_where_one_is_needed(tokens: str, features: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tokenizer CKPT"):
        train(world_config(features, tmp_path / "run"), "run")
    state = torch.load(TOKENIZER, weights_only=True)
    state["norm.bias"] += 1
    torch.save(state, tmp_path / "other.bin")
    with pytest.raises(ConfigError, match="made with another tokenizer"):
        train(world_config(tokens, tmp_path / "run", tokenizer=str(tmp_path / "other.bin")), "run")
    assert train(world_config(tokens, tmp_path / "run", steps=1, tokenizer=TOKENIZER), "run").step == 1


def test_a_world_model_remembers_its_tokenizer_whichever_way_it_is_trained(
    tokens: str, features: str, shards: str, tmp_path: Path
) -> None:
    frozen = {"backbone": Backbone.load(BACKBONE, "cpu").content_hash, "tokenizer": read(TOKENIZER).content_hash}
    for name, data in (("tokens", tokens), ("features", features), ("shards", shards)):
        tokenizer = None if name == "tokens" else TOKENIZER
        train(world_config(data, tmp_path / name, steps=1, tokenizer=tokenizer), "world")
        assert read(tmp_path / name).provenance["frozen"] == frozen
    train(
        world_config(
            features,
            tmp_path / "dino",
            steps=1,
            network={"kind": "dinoworld", "width": 64, "depth": 1, "layer_scale": 0.1},
        ),
        "world",
    )
    export(tmp_path / "dino", tmp_path / "exported")
    assert read(tmp_path / "exported").provenance["frozen"] == {"backbone": frozen["backbone"]}
    world, here = str(tmp_path / "shards"), {**frozen, "tokenizer": "0" * 64}
    (note,) = mismatched_checkpoints([("world", world), ("tokenizer", None), ("dinoworld", TOKENIZER)], here)
    assert note.startswith(
        f"--world {world} was trained behind another tokenizer (content hash {frozen['tokenizer'][:12]}"
    )
    assert mismatched_checkpoints([("world", world)], frozen) == mismatched_checkpoints([("world", world)], {}) == []


def test_settings_that_the_data_contradicts_are_refused(tokens: str, features: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"frames is set to 8, but a clip of .* has 4; leave frames out"):
        train(world_config(tokens, tmp_path / "run", frames=8), "run")
    with pytest.raises(ConfigError, match=rf"size is set to 512, but .* has {SIZE}; leave size out, add --size {SIZE}"):
        train(world_config(tokens, tmp_path / "run", size=512), "run")
