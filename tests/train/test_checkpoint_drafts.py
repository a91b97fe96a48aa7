"""What a kill leaves of a run: whole checkpoints that say what an unbroken run's say, and drafts that vanish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import make_features, make_shards, tokenizer_config

from deltactl.cli import main
from deltactl.errors import StorageError
from deltactl.train.callbacks.checkpointing import Checkpoints
from deltactl.train.run import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    return make_features(make_shards(folder / "shards"), folder / "features")


def best_losses(run: Path) -> dict[str, Any]:
    """Return the best loss that each checkpoint of a run knows of."""
    found = {}
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        callbacks = torch.load(path, weights_only=True)["callbacks"]
        (found[path.name],) = [state["best_loss"] for state in callbacks.values() if "best_loss" in state]
    return found


@pytest.mark.parametrize("last_every", [3, 4])
def test_checkpoints_after_a_kill_know_the_best_loss_of_an_unbroken_run(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_every: int
) -> None:
    """Between best.ckpt and last.ckpt, best.ckpt is younger than what the run goes on from."""
    changes = {"steps": 12, "validate_every": 4, "last_every": last_every, "checkpoint_every": 1}
    config = tokenizer_config(store, tmp_path / "whole", **changes)
    train(config, "whole")
    expected = best_losses(tmp_path / "whole")
    assert expected["step-0000004.ckpt"] is None, "it comes before that step's validation"
    assert expected["step-0000005.ckpt"] > expected["step-0000009.ckpt"], "the second validation is better"

    save = Checkpoints._save

    def stop(self: Checkpoints, trainer: Any, name: str) -> None:
        save(self, trainer, name)
        if name == "best.ckpt" and trainer.global_step == 8:
            raise RuntimeError("power cut")

    config = config.model_copy(update={"out": str(tmp_path / "parts"), "checkpoint_every": 100})
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Checkpoints, "_save", stop)
        train(config, "parts")
    train(config.model_copy(update={"resume": "auto", "checkpoint_every": 1}), "parts")
    found = best_losses(tmp_path / "parts")
    assert len(found) > 4
    assert found == {name: loss for name, loss in expected.items() if name in found}


def test_a_run_that_starts_from_another_begins_with_a_best_of_its_own(store: str, tmp_path: Path) -> None:
    changes = {"steps": 4, "validate_every": 2, "last_every": 2, "checkpoint_every": 100}
    train(tokenizer_config(store, tmp_path / "one", **changes), "one")
    two = tokenizer_config(store, tmp_path / "two", resume=str(tmp_path / "one"), **{**changes, "steps": 6})
    train(two.model_copy(update={"lr": 1e-9}), "two")
    assert best_losses(tmp_path / "two")["best.ckpt"] == best_losses(tmp_path / "two")["last.ckpt"]


DYING = """
import os, signal, sys
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.train.callbacks import checkpointing
from deltactl.train.run import train
checkpointing.os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL) if "ckpt" in os.readlink(
    f"/proc/self/fd/{file}") else None
train(TokenizerConfig.model_validate_json(sys.argv[1]), "run")
"""


def test_what_a_kill_left_of_a_checkpoint_is_shown_and_vanishes(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = tokenizer_config(store, run, steps=2, last_every=1)
    train(config, "run")
    dying = config.model_copy(update={"steps": 4, "resume": "auto"})
    environment = {**os.environ, "JAXTYPING_DISABLE": "1"}
    killed = subprocess.run([sys.executable, "-c", DYING, dying.model_dump_json()], env=environment, check=False)
    assert killed.returncode == -9
    checkpoints = run / "checkpoints"
    (draft,) = (path.name for path in checkpoints.iterdir() if path.name.startswith(".last.ckpt."))
    (checkpoints / ".best.ckpt.partial").write_bytes(b"of an earlier version")
    (checkpoints / "mine.txt").write_text("mine")
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"left over: checkpoints/{draft}: a draft of a process that died" in said
    assert "left over: checkpoints/.best.ckpt.partial: no part of a run" in said
    assert "left over: checkpoints/mine.txt: no part of a run" in said
    assert "read 2 checkpoints" in said
    train(dying, "run")
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt", "mine.txt"]
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_checkpoint_that_cannot_be_written_leaves_no_draft(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        if ".ckpt" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"no space left to write .*best.ckpt"):
        patch.setattr("deltactl.train.callbacks.checkpointing.os.fsync", full)
        train(tokenizer_config(store, run, steps=1), "run")
    assert list((run / "checkpoints").iterdir()) == []


def test_verify_names_a_damaged_checkpoint(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(tokenizer_config(store, run, steps=1), "run")
    assert main(["verify", str(run)]) == 0
    assert "read 2 checkpoints" in capsys.readouterr().out
    last = run / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    assert main(["verify", str(run)]) == 1
    assert "damaged: checkpoints/last.ckpt" in capsys.readouterr().out
    assert main(["verify", str(run), "--repair"]) == 1
    assert "a checkpoint is not made again" in capsys.readouterr().err
