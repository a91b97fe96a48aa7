"""The configuration of `deltactl eval`: which data and weights, which rows, which horizons, how many samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from deltactl.configs.names import EvaluationSet, evaluation_sets, head_variable, root_variable
from deltactl.configs.shared import BackboneConfig, DeviceConfig, StageConfig
from deltactl.configs.values import Checkpoint, File, Place, Variable

Encoding = Literal["sequential", "parallel"]

CLIP_FRAMES = 7
"""Frames in an evaluation clip; the last one is labelled."""

RGBHead = Annotated[Checkpoint, Variable("RGB_HEAD_PATH")]
"""A head that makes pictures of features."""


class EvaluateConfig(BackboneConfig, DeviceConfig, StageConfig):
    """Everything an evaluation depends on."""

    dataset: EvaluationSet = "vspw"
    """The evaluation set: labelled classes (vspw, cityscapes) or depth (kitti); or a file that tells of one
    (`deltactl config show dataset`)."""

    root: Annotated[Place | None, Variable(root_variable, by="dataset", of=evaluation_sets)] = None
    """Root of the data set as its owners publish it."""

    split_file: File | None = None
    """For KITTI the Eigen split file, for VSPW another list of videos than val.txt."""

    tokenizer: Checkpoint | None = None
    """DeltaTok: a file, a run or a name on the Hub. Without it its rows, and DeltaWorld's, are left out."""

    world: Checkpoint | None = None
    """DeltaWorld, likewise; needs the tokenizer."""

    dinoworld: Checkpoint | None = None
    """The DINO-world baseline, likewise."""

    head: Annotated[Checkpoint | None, Variable(head_variable, by="dataset", of=evaluation_sets)] = None
    """The data set's head. Without it there are losses only."""

    rgb_head: RGBHead | None = None
    """The head that makes pictures of features, for the report."""

    horizons: tuple[int, ...] = (1, 3)
    """How many frames ahead to predict; each horizon has its own rows, over the last frames of every clip."""

    context: int = Field(default=4, ge=1, le=CLIP_FRAMES - 1)
    """True frames that copy last, DeltaWorld and DINO-world start from; DeltaTok's rows start from one."""

    samples: int = Field(default=20, ge=1)
    """Futures that DeltaWorld draws for each clip and horizon."""

    encoding: Encoding = "sequential"
    """What DeltaTok encodes a frame against: the previous reconstruction (sequential) or the true frame (parallel)."""

    extras: bool = True
    """Whether to add the tables beyond the published protocol: best of k, diversity, drift, and the noise null."""

    against: Literal["paper"] | None = None
    """paper: put the published values beside these even where the evaluation is not the published one. Where it is,
    they are there by themselves."""

    pictures: int = Field(default=3, ge=0, le=100)
    """Clips that the report shows in pictures, spread evenly over the set."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many clips."""

    cache: bool = True
    """Whether to keep shards and features in the workspace for the next evaluation, or to keep nothing."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    """Type that features are rounded to, in the cache and without one. bfloat16 is for networks with features beyond
    65504."""

    batch_size: int | None = Field(default=None, ge=1)
    """Crops that go through the networks at once; by default by the memory of the device. Halved, with a word, where
    a GPU's memory runs full."""

    workers: int | None = Field(default=None, ge=0)
    """Worker processes that share the clips; by default one for each GPU. 0 works in this process."""

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
