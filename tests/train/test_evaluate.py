"""Evaluation sets during training: their metrics are among the figures, and their losses choose the best checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from small_training import FRAMES, make_features, make_shards, tokenizer_config, world_config

from deltactl.errors import ConfigError
from deltactl.evaluate.during_training import callbacks_for, validation_loss
from deltactl.train.run import train

TESTS = Path(__file__).parents[1]


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSPW_ROOT", str(TESTS / "trees" / "VSPW"))
    monkeypatch.setenv("VSPW_HEAD_PATH", str(TESTS / "golden" / "head_vspw.bin"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evaluate")
    return make_features(make_shards(folder / "shards"), folder / "features")


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_a_tokenizer_is_evaluated_at_each_validation(roots: None, store: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 4, "validate_every": 2, "evaluate": ("vspw",), "evaluate_clips": 2}
    config = tokenizer_config(store, tmp_path / "run", **changes)
    train(config, "run", callbacks_for(config))
    losses = rows(tmp_path / "run", "evaluation/loss")
    assert len(losses) == 2
    assert len(rows(tmp_path / "run", "evaluation/vspw/deltatok/3/miou")) == 2
    assert (tmp_path / "run" / "evaluations" / "0000004-vspw" / "metrics.json").is_file()
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_a_world_model_is_evaluated_with_its_tokenizer(roots: None, store: str, tmp_path: Path) -> None:
    tokenizer = str(TESTS / "golden" / "deltatok.bin")
    changes: dict[str, Any] = {"steps": 1, "validate_every": 1, "evaluate": ("vspw",), "evaluate_clips": 1}
    config = world_config(store, tmp_path / "run", tokenizer=tokenizer, frames=FRAMES, **changes)
    train(config, "run", callbacks_for(config))
    assert len(rows(tmp_path / "run", "evaluation/vspw/deltaworld-mean/1/loss")) == 1
    with pytest.raises(ConfigError, match="--tokenizer CKPT"):
        callbacks_for(config.model_copy(update={"tokenizer": None}))


def test_kitti_is_evaluated_over_its_split_file(monkeypatch: pytest.MonkeyPatch, store: str, tmp_path: Path) -> None:
    monkeypatch.setenv("KITTI_ROOT", str(TESTS / "trees" / "kitti"))
    monkeypatch.setenv("KITTI_HEAD_PATH", str(TESTS / "golden" / "head_kitti.bin"))
    changes: dict[str, Any] = {"steps": 1, "validate_every": 1, "evaluate": ("kitti",), "evaluate_clips": 1}
    config = tokenizer_config(store, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match="--set kitti_split_file=FILE"):
        callbacks_for(config)
    config = config.model_copy(update={"kitti_split_file": str(TESTS / "trees" / "kitti" / "eigen_test.txt")})
    train(config, "run", callbacks_for(config))
    assert len(rows(tmp_path / "run", "evaluation/kitti/deltatok/1/rmse")) == 1


def test_without_sets_there_is_no_callback(store: str, tmp_path: Path) -> None:
    assert callbacks_for(tokenizer_config(store, tmp_path)) == []


def test_the_loss_is_the_mean_over_horizons_of_the_mean_over_steps() -> None:
    loss = {(1, 1): 1.0, (3, 1): 2.0, (3, 2): 4.0, (3, 3): 6.0}
    table = [
        {"method": "deltaworld", "select": select, "horizon": horizon, "step": step, "loss": value * (select == "mean")}
        for (horizon, step), value in loss.items()
        for select in ("mean", "best")
    ]
    assert validation_loss(table, "deltaworld", "mean") == (1 + 4) / 2


def test_without_held_out_clips_there_is_no_validation_to_evaluate_with(
    roots: None, store: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"steps": 1, "validation_fraction": 0.0, "evaluate": ("vspw",), "evaluate_clips": 1}
    with pytest.raises(ConfigError, match=r"nothing of .* is held out.*evaluate on vspw.*validation_fraction above 0"):
        train(tokenizer_config(store, tmp_path / "run", **changes), "run")
