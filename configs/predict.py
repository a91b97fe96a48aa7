"""The settings of `deltactl predict`: which moments of a video, which networks, how many futures.

The first group says what is predicted from, the second with what, the third how the work is done.
"""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.evaluate import RGB_HEAD_VARIABLE


class PredictConfig(Config):
    """Everything that the futures of a video depend on."""

    video: str
    """A video file, or a folder of frames: `frame_SECONDS.jpg` (or png), or numbered ones of a known rate (`fps`)."""

    fps: float | None = Field(default=None, gt=0)
    """Frames per second of a folder whose files are numbered; None where their names carry seconds."""

    context: int = Field(default=4, ge=1, le=64)
    """Frames to predict from."""

    stride: float = Field(default=0.2, gt=0, json_schema_extra=FOLLOWS)
    """Seconds from one frame to the next, in the context and in the future. Published training saw 0.04 to 0.33. Where
    it is not set, 0.2, or what is nearest to that of what the networks were trained on, where their checkpoints say."""

    at: float | None = Field(default=None, ge=0)
    """When the last context frame is shown, in seconds from the first frame; the end of the video where it is None."""

    horizon: int = Field(default=3, ge=1, le=100)
    """Frames to predict."""

    samples: int = Field(default=20, ge=1, le=1000)
    """Futures to draw."""

    seed: int = Field(default=0, ge=0)
    """Where the random queries come from."""

    size: int = Field(default=512, ge=16, json_schema_extra=FOLLOWS)
    """Pixels of the short side of what the backbone sees, a multiple of its patch size. Where it is not set, the size
    that the networks were trained at, where their checkpoints say."""

    crop: Literal["centre", "whole"] = "centre"
    """What of a frame that is not square is used. centre: the square in its middle, as squares are what the networks
    are trained on. whole: all of it, on a grid of patches that is not square, which no network has seen in training."""

    backbone: str = Field(default="facebook/dinov3-vitb16-pretrain-lvd1689m", json_schema_extra=FOLLOWS)
    """Folder or Hub name of the frozen DINOv3."""

    tokenizer: str
    """Checkpoint of DeltaTok: a file, a run or a Hub name."""

    world: str
    """Checkpoint of DeltaWorld, likewise."""

    heads: tuple[str, ...] = ()
    """Segmentation and depth heads whose output is written for every future; the weights say which they are."""

    rgb_head: str | None = None
    """The head that makes pictures of features; the environment names it where it is None. Without it, pictures show
    principal components."""

    out: str | None = None
    """Folder or URL to write to; in the workspace, named after the video, where it is None."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """How the networks compute: auto is bfloat16 on a GPU, float32 on a CPU. Heads are float32."""

    def resolved(self) -> PredictConfig:
        """Return the configuration with the RGB head that the environment names."""
        return self.model_copy(update={"rgb_head": self.rgb_head or os.environ.get(RGB_HEAD_VARIABLE) or None})
