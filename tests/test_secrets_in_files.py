"""No file that training or an export writes holds a secret that was on the command line or in the settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import wandb
from small_training import SIZE, make_features, make_shards

from deltactl.cli import main
from deltactl.train.callbacks.tracking import finish_tracking, wandb_logger

SECRET = "hf_abcdEFGHijklMNOP1234"
"""A token by its form."""


def files_with(secret: str, root: Path) -> list[str]:
    """Return the files below `root` that hold the secret's bytes."""
    return [path.name for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start this program with a secret among its arguments."""
    monkeypatch.setattr(sys, "argv", ["deltactl", "train", "--set", f"project={SECRET}"])


@pytest.mark.usefixtures("command_line")
def test_artifacts_runs_and_exports_hold_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_features(make_shards(tmp_path / "shards"), tmp_path / "features")
    settings = {
        "project": SECRET,
        "wandb": "disabled",
        "steps": 2,
        "size": SIZE,
        "effective_batch": 8,
        "batch_size": 8,
        "network.width": 128,
        "network.depth": 1,
        "validation_fraction": 0.2,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", "tokenizer", store, "--out", str(tmp_path / "run"), *words]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "exported")]) == 0
    for place in (store, str(tmp_path / "run"), str(tmp_path / "exported")):
        for json in ((), ("--json",)):
            assert main(["info", place, *json]) == 0
    assert 'project: "***"' in (tmp_path / "run/config.yaml").read_text()
    assert files_with("hf_abcd", tmp_path) == []
    assert "hf_abcd" not in "".join(capsys.readouterr())


@pytest.mark.usefixtures("command_line")
def test_wandb_is_given_no_secret(tmp_path: Path) -> None:
    """Its own record of a run has the command line and what was printed, unless it is told otherwise."""
    logger = wandb_logger("offline", "deltactl", "run", tmp_path, {"lr": 0.125})
    print(f"token={SECRET}")
    logger.log_metrics({"train/loss": 1.0}, step=1)
    finish_tracking([logger])
    wandb.teardown()  # W&B's process has written all
    assert b"train/loss" in next(tmp_path.rglob("*.wandb")).read_bytes()
    assert files_with(SECRET, tmp_path) == []
