"""The configuration of `deltactl predict`: which moments of a video, which networks, how many futures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS
from deltactl.configs.evaluate import RGBHead
from deltactl.configs.shared import BackboneConfig, DeviceConfig, StageConfig
from deltactl.configs.values import Checkpoint, Seconds


class PredictConfig(BackboneConfig, DeviceConfig, StageConfig):
    """Everything that the futures of a video depend on."""

    video: str
    """A video file, or a folder of frames: `frame_SECONDS.jpg` (or png), or numbered ones of a known rate (`fps`)."""

    fps: float | None = Field(default=None, gt=0)
    """Frames per second of a folder whose files are numbered; not for one whose names carry seconds."""

    context: int = Field(default=4, ge=1, le=64)
    """Frames to predict from."""

    stride: Seconds = Field(default=0.2, gt=0, json_schema_extra=FOLLOWS)
    """Seconds from one frame to the next, in the context and in the future. Published training saw 0.04 to 0.33. Where
    it is not set, 0.2, or what is nearest to that of what the networks were trained on, where their checkpoints say."""

    at: Seconds | None = Field(default=None, ge=0)
    """When the last context frame is shown, in seconds from the first frame; by default the end of the video."""

    horizon: int = Field(default=3, ge=1, le=100)
    """Frames to predict."""

    samples: int = Field(default=20, ge=1, le=1000)
    """Futures to draw."""

    crop: Literal["centre", "whole"] = "centre"
    """What of a frame is used. centre: the largest part in its middle that has the shape of `size`, a square for N.
    whole: all of it; resized to exactly HxW, or for N to that at its short side, on a grid of patches that is not
    square and that networks trained on squares have never seen."""

    tokenizer: Checkpoint
    """DeltaTok: a file, a run or a name on the Hub."""

    world: Checkpoint
    """DeltaWorld, likewise."""

    heads: tuple[Checkpoint, ...] = ()
    """Segmentation or depth head whose output is written for every future; there may be one of each."""

    rgb_head: RGBHead | None = None
    """The head that makes pictures of features. Without it, pictures show principal components."""
