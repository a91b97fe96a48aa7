"""How a start of a run ends: its last step reports and validates, and its limits are those of this start alone."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.configs.training import TrainerConfig
from deltactl.train.run import train
from deltactl.train.steps.alarm import PATIENCE, ZSwapAlarm

AT_ONCE = "00:00:00:00"
"""A limit that is over after one step."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("ends") / "shards")


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("ends") / "features")


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's figures that do not depend on the clock."""
    with (run / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name not in ("train/samples_per_second", "train/waiting")}
            for row in csv.DictReader(file)
        ]


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / name, weights_only=True)


# --- the limit of a start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"batch_size": 4, "effective_batch": 12}], ids=["one batch", "three batches"])
def test_many_starts_with_a_time_limit_come_to_what_one_without_comes_to(
    store: str, tmp_path: Path, changes: dict[str, int]
) -> None:
    """Every start does a step, though those before it have used up the limit; reports and the best are the same."""
    config = tokenizer_config(store, tmp_path / "whole", steps=7, log_every=3, validate_every=2, **changes)
    train(config, "whole")
    limited = config.model_copy(
        update={"out": str(tmp_path / "parts"), "resume": "auto", "trainer": TrainerConfig(max_time=AT_ONCE)}
    )
    ends = [train(limited, "parts") for _ in range(7)]
    assert [end.step for end in ends] == [1, 2, 3, 4, 5, 6, 7]
    assert [end.stopped for end in ends] == [True] * 6 + [False]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == ["2", "3", "4", "6", "6", "7", "7"]
    for name in ("best.ckpt", "last.ckpt"):
        whole, parts = checkpoint(tmp_path / "whole", name), checkpoint(tmp_path / "parts", name)
        assert parts["global_step"] == whole["global_step"]
        assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items())


def test_a_world_model_reports_as_if_it_had_not_been_stopped(shards: str, golden: Path, tmp_path: Path) -> None:
    config = world_config(
        shards, tmp_path / "whole", steps=4, log_every=3, validate_every=2, tokenizer=str(golden / "deltatok.bin")
    )
    train(config, "whole")
    limited = config.model_copy(
        update={"out": str(tmp_path / "parts"), "resume": "auto", "trainer": TrainerConfig(max_time=AT_ONCE)}
    )
    for _ in range(4):
        train(limited, "parts")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_limit_lets_steps_go_on_until_it_is_over(store: str, tmp_path: Path) -> None:
    class Slow(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            time.sleep(0.3)

    config = tokenizer_config(store, tmp_path / "run", steps=1000, trainer={"max_time": "00:00:00:01"})
    first = train(config, "run", [Slow()])
    assert first.stopped
    assert 2 <= first.step <= 4, "0.3 s each, and more on a busy machine"
    second = train(config.model_copy(update={"resume": "auto"}), "run", [Slow()])
    assert first.step + 2 <= second.step <= first.step + 4


@pytest.mark.parametrize(("text", "seconds"), [(None, None), ("00:00:00:05", 5), ("01:02:03:04", 93784)])
def test_a_limit_is_days_hours_minutes_and_seconds(text: str | None, seconds: float | None) -> None:
    assert TrainerConfig(max_time=text).most_seconds == seconds


def test_an_alarm_goes_on_counting_where_it_was(store: str, tmp_path: Path) -> None:
    """A run that is stopped more often than every few readings is warned all the same."""
    alarm = ZSwapAlarm(100, low=PATIENCE - 1, low_since=150)
    assert alarm.read(400, 1.0) is None
    assert alarm.read(450, 1.0) is not None
    older = ZSwapAlarm(100, low=PATIENCE)  # from a checkpoint that does not say since when
    assert older.read(400, 1.0) is None
    assert older.read(700, 1.0) is not None
    config = tokenizer_config(store, tmp_path / "run", steps=6, log_every=1, warmup_steps=0, lr=1e-12)
    limited = config.model_copy(update={"resume": "auto", "trainer": TrainerConfig(max_time=AT_ONCE)})
    for step in range(1, 4):
        train(limited, "run")
        assert 0 <= checkpoint(tmp_path / "run", "last.ckpt")["reports"]["low_readings"] <= step
    reports = checkpoint(tmp_path / "run", "last.ckpt")["reports"]
    assert (reports["low_readings"], reports["low_since"]) == (3, 1), "weights that never change"


# --- the last step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 20])
def test_a_short_run_reports_and_validates_at_its_end(store: str, tmp_path: Path, steps: int) -> None:
    config = tokenizer_config(store, tmp_path / "run", steps=steps, log_every=50, validate_every=5000)
    result = train(config, "run")
    trained, validated = rows(tmp_path / "run")
    assert trained["step"] == validated["step"] == str(steps)
    assert float(trained["train/loss"]) > 0
    assert float(trained["health/z_swap"]) > 0
    assert float(validated["validation/loss"]) > 0
    assert checkpoint(tmp_path / "run", "best.ckpt")["global_step"] == steps
    *_, last = result.lines()
    assert last.startswith(f"{tmp_path / 'run'}: {steps} steps done; validation/")
    assert f"validation/loss {float(validated['validation/loss']):.4g}" in last
    assert "train/loss" in result.lines()[0]


def test_the_last_step_is_validated_once(store: str, tmp_path: Path) -> None:
    train(tokenizer_config(store, tmp_path / "run", steps=6, log_every=2, validate_every=3), "run")
    assert [row["step"] for row in rows(tmp_path / "run") if row["validation/loss"]] == ["3", "6"]


def test_a_run_that_holds_nothing_out_ends_without_a_validation(store: str, tmp_path: Path) -> None:
    result = train(tokenizer_config(store, tmp_path / "run", steps=2, validation_fraction=0.0), "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == ["2"]
    assert result.lines()[-1] == f"{tmp_path / 'run'}: 2 steps done"


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(store: str, tmp_path: Path) -> None:
    config = tokenizer_config(store, tmp_path / "whole", steps=6, log_every=4, validate_every=4)
    train(config, "whole")
    longer = config.model_copy(update={"out": str(tmp_path / "parts"), "resume": "auto"})
    train(longer.model_copy(update={"steps": 3}), "parts")
    assert train(longer, "parts").step == 6
    whole, parts = (checkpoint(tmp_path / run, "last.ckpt")["state_dict"] for run in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["3", "3", "4", "4", "6", "6"]


def test_the_progress_line_shows_the_loss(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deltactl.progress.LINE_EVERY_SECONDS", 0.0)
    train(tokenizer_config(store, tmp_path / "run", steps=3, log_every=50), "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    assert [line.split(" steps", 1)[0] for line in lines] == ["train: 1 of 3", "train: 2 of 3", "train: 3 of 3"]
    assert all(", loss " in line for line in lines)
    loss = float(rows(tmp_path / "run")[0]["train/loss"])
    assert float(lines[-1].rsplit(" ", 1)[1]) == pytest.approx(loss, rel=1e-3), "the mean since the last report"
