"""The configuration of `deltactl train rgb`: the head that makes pictures of features.

How the published head was trained is not published; these values are our own, for one GPU.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.head import HeadTrainingConfig
from deltactl.configs.shared import WhereConfig
from deltactl.configs.tokenizer import check_width
from deltactl.configs.training import HEAD_WIDTH


class RGBNetworkConfig(Config):
    """Sizes of the RGB head; the published one has 28 blocks of width 1152 with 16 attention heads."""

    width: Annotated[int, AfterValidator(check_width)] = Field(default=384, ge=4)
    """Width of the decoder, a multiple of 64, or of 4 below that."""

    depth: int = Field(default=6, ge=1)
    """Blocks of the decoder."""

    heads: int = Field(default=6, ge=1, json_schema_extra=FOLLOWS)
    """Attention heads, a divisor of the width. Where it is not set, one for each 64 of the width."""

    mlp_width: int = Field(default=1536, ge=1, json_schema_extra=FOLLOWS)
    """Inner width of the MLPs. Where it is not set, four times the width."""

    grid: int = Field(default=16, ge=1, json_schema_extra=FOLLOWS)
    """Rows and columns of the positions that are learned; those of other grids are interpolated from them. Where it is
    not set, the longer side of the store's grid of patches."""

    @model_validator(mode="after")
    def _whole_heads(self) -> RGBNetworkConfig:
        if "heads" in self.model_fields_set and self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of the width, {self.width}")
        return self

    @property
    def usual(self) -> dict[str, int]:
        """What follows from the width."""
        return {"heads": max(1, self.width // HEAD_WIDTH), "mlp_width": 4 * self.width}


class RGBConfig(WhereConfig, HeadTrainingConfig):
    """Everything a training run of an RGB head depends on."""

    network: RGBNetworkConfig = RGBNetworkConfig()
    """Sizes of the head. Patches, and the features' width, are those of the store."""

    steps: int = Field(default=20_000, ge=1)

    batch_size: int = Field(default=64, ge=1)
    """Frames on each device at a time; fewer where all devices together would take more than `effective_batch`."""

    effective_batch: int = Field(default=64, ge=1)
    """Frames in an optimizer step, over all devices, nodes and accumulated batches."""

    lr: float = Field(default=5e-4, gt=0)

    warmup_steps: int = Field(default=500, ge=0)

    weight_decay: float = Field(default=1e-2, ge=0)

    clip_norm: float | None = Field(default=1.0, gt=0)

    validate_every: int = Field(default=2_000, ge=1)
