"""The settings of `deltactl train head`: a linear probe on frozen features. How the published ones were trained is not
published; these values are our own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deltactl.configs.names import Network
from deltactl.configs.training import TrainingConfig


class HeadConfig(TrainingConfig):
    """Everything a training run of a head depends on."""

    dataset: Literal["vspw", "cityscapes", "kitti"] = "vspw"
    """Data set whose training split the head learns: classes (vspw, cityscapes) or depth (kitti)."""

    head: Network | None = None
    """Kind of the head that is trained, of this package or another (entry points deltactl.networks). None is the linear
    head of the data set."""

    shards: str | None = None
    """Shards of that split, which hold the labels. None takes those in the workspace."""

    steps: int = Field(default=10_000, ge=1)
    """Optimiser steps at which the run ends."""

    batch_size: int = Field(default=16, ge=1)
    """Frames on each device at a time."""

    effective_batch: int = Field(default=16, ge=1)
    """Frames in an optimiser step, over all devices, nodes and accumulated batches."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of AdamW after the warm-up."""

    warmup_steps: int = Field(default=500, ge=0)
    """Steps over which the learning rate rises from 0 in a straight line; after it, it is constant."""

    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay of AdamW, on the weights of Linear and Conv layers only."""

    validate_every: int = Field(default=1_000, ge=1)
    """Steps between validations."""

    @model_validator(mode="after")
    def _held_out_videos_decide(self) -> HeadConfig:
        if self.evaluate:
            raise ValueError(f"evaluate is {list(self.evaluate)}, but heads are validated on held-out videos")
        return self
