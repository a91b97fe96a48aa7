"""The settings of `deltactl eval`: which data and weights, which rows, over which horizons, with how many samples.

The first group says what is evaluated, the second decides the numbers, the third how the work is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from deltactl.configs.base import FOLLOWS, Config

Dataset = Literal["vspw", "cityscapes", "kitti"]
Encoding = Literal["sequential", "parallel"]

CLIP_FRAMES = 7
"""Frames in an evaluation clip; the last one is labelled."""

HEAD_VARIABLES: Mapping[str, str] = {
    "vspw": "VSPW_HEAD_PATH",
    "cityscapes": "CITYSCAPES_HEAD_PATH",
    "kitti": "KITTI_HEAD_PATH",
}
"""The environment variable that names the head of each data set."""
RGB_HEAD_VARIABLE = "RGB_HEAD_PATH"


class EvaluateConfig(Config):
    """Everything an evaluation depends on."""

    dataset: Dataset = "vspw"
    """The evaluation set: labelled classes (vspw, cityscapes) or depth (kitti)."""

    root: str | None = None
    """Root of the data set as its owners publish it; the environment names it where it is None."""

    split_file: str | None = None
    """For KITTI the Eigen split file, for VSPW another list of videos than val.txt."""

    backbone: str = Field(default="facebook/dinov3-vitb16-pretrain-lvd1689m", json_schema_extra=FOLLOWS)
    """Folder or Hub name of the frozen DINOv3."""

    size: int = Field(default=512, ge=16, json_schema_extra=FOLLOWS)
    """Pixels of the short side of the frames, a multiple of the backbone's patch size. Where it is not set, the size
    that the networks were trained at, where their checkpoints say."""

    tokenizer: str | None = None
    """Checkpoint of DeltaTok: a file, a run or a Hub name. Without it its rows, and DeltaWorld's, are left out."""

    world: str | None = None
    """Checkpoint of DeltaWorld, likewise."""

    dinoworld: str | None = None
    """Checkpoint of the DINO-world baseline, likewise."""

    head: str | None = None
    """Weights of the data set's head; the environment names them where it is None. Without it there are losses only."""

    rgb_head: str | None = None
    """The head that makes pictures of features, for the report; the environment names it where it is None."""

    horizons: tuple[int, ...] = (1, 3)
    """How many frames ahead to predict; each horizon has its own rows, over the last frames of every clip."""

    context: int = Field(default=4, ge=1, le=CLIP_FRAMES - 1)
    """True frames that copy last, DeltaWorld and DINO-world start from. (DeltaTok's rows start from one.)"""

    samples: int = Field(default=20, ge=1)
    """Futures that DeltaWorld draws for each clip and horizon."""

    encoding: Encoding = "sequential"
    """What DeltaTok encodes a frame against: the previous reconstruction (sequential) or the true frame (parallel)."""

    seed: int = Field(default=0, ge=0)
    """Where the random queries of every clip come from, together with the clip's key."""

    extras: bool = True
    """Whether to add the tables beyond the published protocol: best of k, diversity, drift, and the noise null."""

    against: Literal["paper"] | None = None
    """paper: the published values stand beside these even where the evaluation is not the published one. They do by
    themselves where it is."""

    pictures: int = Field(default=3, ge=0, le=100)
    """Clips that the report shows in pictures, spread evenly over the set."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many clips."""

    out: str | None = None
    """Folder or URL of the report; in the workspace, named after what was evaluated, where it is None."""

    cache: bool = True
    """Whether to keep shards and features in the workspace for the next evaluation, or to keep nothing."""

    batch_size: int | None = Field(default=None, ge=1)
    """Crops that go through the networks at once; by the memory of the device where it is None. Halved, with a word,
    where a GPU's memory runs full."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is every GPU there is."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """How the networks compute: auto is bfloat16 on a GPU, float32 on a CPU. Heads, losses and metrics are float32."""

    workers: int | None = Field(default=None, ge=0)
    """Processes that share the clips; one for each GPU where it is None, 0 to work in this process."""

    max_bad: float = Field(default=0.05, ge=0, le=1)
    """Share of the sources that may be unreadable before the evaluation stops."""

    retry_failed: bool = False
    """Whether to make those cached shards again in which sources were quarantined, once the sources were mended."""

    @field_validator("horizons")
    @classmethod
    def _within_a_clip(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        unique = tuple(sorted(set(horizons)))
        if not unique or not 1 <= unique[0] <= unique[-1] <= CLIP_FRAMES:
            raise ValueError(f"expected numbers of frames from 1 to {CLIP_FRAMES}, such as 1,3")
        return unique

    def resolved(self) -> EvaluateConfig:
        """Return the configuration with the heads that the environment names."""
        heads = {
            "head": self.head or os.environ.get(HEAD_VARIABLES[self.dataset]) or None,
            "rgb_head": self.rgb_head or os.environ.get(RGB_HEAD_VARIABLE) or None,
        }
        return self.model_copy(update=heads)
