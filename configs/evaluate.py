"""The settings of `deltactl eval`: which rows, over which horizons, with how many samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from deltactl.configs.base import Config

Dataset = Literal["vspw", "cityscapes", "kitti"]
Encoding = Literal["sequential", "parallel"]

CLIP_FRAMES = 7
"""Frames in an evaluation clip; the last one is labelled."""


class EvaluateConfig(Config):
    """What decides the numbers of an evaluation, besides the data and the weights."""

    horizons: tuple[int, ...] = (1, 3)
    """How many frames ahead to predict; each horizon has its own rows, over the last frames of every clip."""

    context: int = Field(default=4, ge=1, le=CLIP_FRAMES - 1)
    """True frames that copy last, DeltaWorld and DINO-world start from. (DeltaTok's rows start from one.)"""

    samples: int = Field(default=20, ge=1)
    """Futures that DeltaWorld draws for each clip and horizon."""

    encoding: Encoding = "sequential"
    """What DeltaTok encodes a frame against: the previous reconstruction (sequential) or the true frame (parallel)."""

    seed: int = 0
    """Where the random queries of every clip come from, together with the clip's key."""

    extras: bool = True
    """Whether to add the tables beyond the published protocol: best of k, diversity, drift, and the noise null."""

    @field_validator("horizons")
    @classmethod
    def _within_a_clip(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        unique = tuple(sorted(set(horizons)))
        if not unique or not 1 <= unique[0] <= unique[-1] <= CLIP_FRAMES:
            raise ValueError(
                f"horizons are {list(horizons)}; expected numbers of frames from 1 to {CLIP_FRAMES}, such as 1,3"
            )
        return unique
