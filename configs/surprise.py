"""The configuration of `deltactl surprise`: which frames, which networks, how many samples of each frame."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS
from deltactl.configs.shared import BackboneConfig, DeviceConfig, StageConfig
from deltactl.configs.values import Checkpoint, File, Seconds


class SurpriseConfig(BackboneConfig, DeviceConfig, StageConfig):
    """Everything that the scores depend on."""

    source: str
    """A video file, a folder of frames, shards, a feature store or a token store; with `pairs` also a folder of
    videos."""

    pairs: File | None = None
    """CSV file of a violation-of-expectation set: a line for each pair, under the headings possible, impossible, and
    perhaps set and group. Names are those of videos below SOURCE, or of the sources of its clips."""

    fps: float | None = Field(default=None, gt=0)
    """Frames per second of folders whose files are numbered; not for those whose names carry seconds."""

    context: int = Field(default=4, ge=1, le=64)
    """Frames to predict from. Of tokens alone all earlier ones of the clip, at least so many."""

    horizon: int = Field(default=1, ge=1, le=100)
    """How many frames ahead of its context a frame is predicted."""

    stride: Seconds = Field(default=0.2, gt=0, json_schema_extra=FOLLOWS)
    """Seconds from one frame of a video to the next. Where it is not set, 0.2, or what is nearest to that of what the
    networks were trained on, where their checkpoints say. Clips have their own."""

    start: Seconds | None = Field(default=None, ge=0)
    """When the first frame is shown, in seconds from the first one of the video; by default that one."""

    end: Seconds | None = Field(default=None, ge=0)
    """When the last frame is shown at the latest; by default the end of the video."""

    samples: int = Field(default=20, ge=1, le=1000)
    """Samples of each frame. The least p-value is 1 / (samples + 1)."""

    limit: int | None = Field(default=None, ge=1)
    """Clips to look at, the first ones; by default all."""

    crop: Literal["centre", "whole"] = "centre"
    """What of a video's frame is used. centre: the largest part in its middle that has the shape of `size`. whole: all
    of it. Of clips it is the former, and a store's own crops."""

    tokenizer: Checkpoint | None = None
    """DeltaTok: a file, a run or a name on the Hub. Tokens need none."""

    world: Checkpoint
    """DeltaWorld, likewise."""
