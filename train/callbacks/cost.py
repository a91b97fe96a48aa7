"""What a network has cost so far: hours times devices, those of earlier starts and of the weights it began from too.

Goes to the header of every checkpoint, from which reports take it. Counted from the first step to the checkpoint, with
validations and what is waited for; not counted is what a crash lost, and what was computed before training (features,
tokens).
"""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch

from deltactl.train.checkpoints.cost import cost_of
from deltactl.train.checkpoints.files import find
from deltactl.train.checkpoints.trained import provenance_of

STATE_KEY = "device_hours"


class Cost(pl.Callback):
    """Counts device-hours; unknown, and so not told, where a checkpoint that the run goes on from does not say."""

    def __init__(self, before: float | None) -> None:
        """`before`: the hours that there were before this run; None where they are not known."""
        self._before = before
        self._begun: float | None = None
        self._devices = 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begun = time.monotonic()
        self._devices = trainer.world_size

    @property
    def device_hours(self) -> float | None:
        """Hours so far, times devices."""
        if self._before is None or self._begun is None:
            return self._before
        return self._before + (time.monotonic() - self._begun) / 3600 * self._devices

    def to_json(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return what the header of a checkpoint says."""
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        hours = self.device_hours
        return {
            "device_hours": None if hours is None else float(f"{hours:.6g}"),
            "device": name,
            "devices": trainer.world_size,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the hours so far."""
        return {STATE_KEY: self.device_hours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the hours of a checkpoint."""
        self._before = state_dict[STATE_KEY]


def hours_before(init: str | None, *, resumed: bool) -> float | None:
    """Return the device-hours before a run: those of the weights that it begins from; None where they do not say.

    `resumed`: it goes on from a state, which knows them itself, or is of an earlier version and does not.

    Raises:
        CheckpointError, HubError: as `files.find`.
    """
    if resumed:
        return None
    return 0.0 if init is None else cost_of(provenance_of(find(init))).get("device_hours")
