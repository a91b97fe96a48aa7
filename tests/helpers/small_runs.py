"""Small training runs that are stopped, gone on with and compared, and the sets of several that they train from."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from small_training import make_features, make_shards

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.tokenization.run import run as tokenize

TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
Sets = dict[str, str]


class Interrupt(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            os.kill(os.getpid(), self.number)


def weights(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """Return what a checkpoint of a run holds."""
    return torch.load(run / "checkpoints" / name, weights_only=True)


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that two checkpoints have the same step, weights and optimizer state, bit for bit."""
    assert one["global_step"] == other["global_step"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments = zip(
        one["optimizer_states"][0]["state"].values(), other["optimizer_states"][0]["state"].values(), strict=True
    )
    for mine, theirs in moments:
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def make_sets(root: Path) -> Sets:
    """Return shards, features and tokens of two sets, `a` of 24 clips and `b` of 18, by names such as `tokens-a`."""
    made: Sets = {}
    for name, units, clips in (("a", 2, 12), ("b", 3, 6)):
        made[f"shards-{name}"] = make_shards(root / f"shards-{name}", units, clips)
        made[f"features-{name}"] = make_features(made[f"shards-{name}"], root / f"features-{name}")
        made[f"tokens-{name}"] = tokens_of(made[f"features-{name}"], root / f"tokens-{name}")
    return made


def tokens_of(features: str, out: Path, tokenizer: str = TOKENIZER) -> str:
    """Write the tokens of features."""
    tokenize(TokenizeConfig(data=features, out=str(out), tokenizer=tokenizer, device="cpu", workers=0))
    return str(out)


def mixed(sets: Sets, kind: str, a: float = 0.7, b: float = 0.3) -> tuple[str, str]:
    """Return the setting `data` that names both sets of a kind with their weights."""
    return f"{sets[f'{kind}-a']}={a}", f"{sets[f'{kind}-b']}={b}"
