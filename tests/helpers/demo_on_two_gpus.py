"""Runs the demo on a machine that seems to have two GPUs; in a process of its own, since torch's answers are replaced.

    python demo_on_two_gpus.py FOLDER

Trainings run up to the moment when they would touch a GPU, with the settings that they have there, then for two steps
on the CPU, so that the commands after them find a checkpoint. So do the evaluations and the prediction, whose settings
are all that is looked at. What each command came to is written to FOLDER/commands.json.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch

from deltactl.cli import main
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.run import make_data, steps
from deltactl.devices import device_of
from deltactl.evaluate.run import process_count

SIZES = DemoSizes(videos=6, heads_videos=2, test_videos=2, drives=1, drive_frames=24)
ON_CPU = ("--device", "cpu", "--set", "workers=0")
SHORT = [word for each in ("trainer.accelerator=cpu", "warmup_steps=1") for word in ("--set", each)]


class ReachedError(Exception):
    """A command has come to where it would compute."""


@contextlib.contextmanager
def two_gpus() -> Iterator[None]:
    """Make torch say that there are two GPUs."""
    with contextlib.ExitStack() as stack:
        for name, answer in {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_device_name": lambda index=0: "NVIDIA H200",
            "get_device_capability": lambda index=0: (9, 0),
        }.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        yield


def settings_of_training(words: Sequence[str]) -> dict[str, Any]:
    """Return what a training would do there."""
    found: dict[str, Any] = {}

    def fit(trainer: pl.Trainer, module: Any, datamodule: Any, **_: Any) -> None:
        plan = datamodule.plan
        found.update(
            strategy=type(trainer.strategy).__name__,
            device=str(trainer.strategy.root_device),
            precision=trainer.precision,
            batch=plan.batch,
            devices=plan.devices,
            accumulate=plan.accumulate,
            effective=plan.effective,
            compiled=module.network._compiled_call_impl is not None,
        )
        raise ReachedError

    with two_gpus(), mock.patch.object(pl.Trainer, "fit", fit):
        code = main(words)
    assert found, f"deltactl {' '.join(words)} ended with {code} before it trained"
    return found


def settings_of_use(words: Sequence[str]) -> dict[str, Any]:
    """Return where an evaluation or a prediction would compute there."""
    found: dict[str, Any] = {}

    def use(config: Any, *_: Any) -> None:
        if words[0] == "eval":
            found["processes"] = process_count(config)
        else:
            found["device"] = str(device_of(config.device))
        raise ReachedError

    where = {"eval": "deltactl.evaluate.run.run", "predict": "deltactl.evaluate.predict.run.run_predict"}
    with two_gpus(), mock.patch(where[words[0]], use):
        main(words)
    assert found, f"deltactl {' '.join(words)} did not come to its settings"
    return found


def run(folder: Path) -> None:
    """Run every step of the demo."""
    make_data(folder, 0, SIZES)
    done = []
    with contextlib.chdir(folder), mock.patch.dict("os.environ", {"DELTACTL_HOME": "workspace"}):
        for step in steps(0):
            words = step.arguments
            entry: dict[str, Any] = {"command": words[0]}
            if words[0] == "train":
                entry |= {"stage": words[1], **settings_of_training(words)}
                kept = [word for word in words if not word.startswith("steps=")]
                if len(kept) < len(words):
                    kept.remove("--set")
                assert main([*kept, "--steps", "2", *SHORT]) == 0
            elif words[0] in ("eval", "predict"):
                entry |= settings_of_use(words)
            else:
                assert main([*words, *(ON_CPU if words[0] in ("featurize", "tokenize") else ())]) == 0
            done.append(entry)
    (folder / "commands.json").write_text(json.dumps(done))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
