"""The configuration of `deltactl train head`: a linear probe on frozen features.

How the published heads were trained is not published; these values are our own.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from deltactl.configs.names import EvaluationSet, NetworkName
from deltactl.configs.training import TrainingConfig
from deltactl.configs.values import Place


class HeadTrainingConfig(TrainingConfig):
    """What the trainings of all heads have in common: they read features, and what lies in the shards under them."""

    data: Place | None = None
    """Feature store of the shards; by default the one in the workspace."""

    shards: Place | None = None
    """Shards that the store was made from, with its frames; by default those where it was made from them."""

    @model_validator(mode="after")
    def _held_out_videos_decide(self) -> HeadTrainingConfig:
        if self.evaluate:
            raise ValueError(f"evaluate is {list(self.evaluate)}, but heads are validated on held-out videos")
        return self


class HeadConfig(HeadTrainingConfig):
    """Everything a training run of a head depends on."""

    dataset: EvaluationSet = "vspw"
    """Data set whose training split the head learns: classes (vspw, cityscapes) or depth (kitti); or a file that tells
    of one (`deltactl config show dataset`)."""

    head: NetworkName | None = None
    """Kind of the head that is trained, of this package or another (entry points deltactl.networks). None is the linear
    head of the data set."""

    shards: Place | None = None
    """Shards of that split, which hold the labels; by default those in the workspace."""

    steps: int = Field(default=10_000, ge=1)

    batch_size: int = Field(default=16, ge=1)
    """Frames on each device at a time."""

    effective_batch: int = Field(default=16, ge=1)
    """Frames in an optimizer step, over all devices, nodes and accumulated batches."""

    lr: float = Field(default=1e-3, gt=0)

    warmup_steps: int = Field(default=500, ge=0)

    weight_decay: float = Field(default=1e-2, ge=0)

    validate_every: int = Field(default=1_000, ge=1)
