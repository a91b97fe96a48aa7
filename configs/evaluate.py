"""The configuration of `deltactl eval`: which data and weights, which rows, which horizons, how many samples."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from deltactl.configs.names import EvaluationSet, evaluation_sets, head_variable, root_variable
from deltactl.configs.shared import BackboneConfig, DeviceConfig, StageConfig
from deltactl.configs.values import Checkpoint, File, Form, Place, Variable

Encoding = Literal["sequential", "parallel"]

CLIP_FRAMES = 7
"""Frames in an evaluation clip of the published protocol; the last one is labelled."""
MOST_FRAMES = 999
MOST_SEEDS = 100


def check_seeds(text: str) -> str:
    """Return several seeds, `A:B` for A up to B - 1 or numbers between commas, as it is.

    Raises:
        ValueError: the text is something else, or names fewer than two.
    """
    seeds = parse_seeds(text)
    if not 2 <= len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected 2 to {MOST_SEEDS} seeds, such as 0:5 (0 to 4) or 0,7,9; for one there is --seed")
    return text


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that `check_seeds` has seen; none where the text is something else."""
    if match := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text):
        return tuple(range(int(match[1]), min(int(match[2]), int(match[1]) + MOST_SEEDS + 1)))
    numbers = [number.strip() for number in text.split(",")]
    return tuple(map(int, numbers)) if all(re.fullmatch(r"[0-9]{1,9}", each) for each in numbers) else ()


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
    """The head that makes pictures of features, for the report: `deltactl train rgb` trains one."""

    frames: int = Field(default=CLIP_FRAMES, ge=2, le=MOST_FRAMES)
    """Frames in a clip: a longer one has room for further horizons and contexts. Fewer clips are that long, so that
    numbers compare only with those of clips of the same length."""

    horizons: tuple[int, ...] = (1, 3)
    """How many frames ahead to predict; each horizon has its own rows, over the last frames of every clip. Clips of
    --frames have to hold horizon and context."""

    context: int = Field(default=4, ge=1, le=MOST_FRAMES - 1)
    """True frames that copy last, DeltaWorld and DINO-world start from; DeltaTok's rows start from one."""

    samples: int = Field(default=20, ge=1)
    """Futures that DeltaWorld draws for each clip and horizon."""

    seeds: Annotated[str, Form("A:B|N,N"), AfterValidator(check_seeds)] | None = None
    """Several seeds in place of --seed: 0:5 for 0 to 4. DeltaWorld's samples are drawn from each; the rows are those of
    the first, and the intervals are also over the seeds."""

    encoding: Encoding = "sequential"
    """What DeltaTok encodes a frame against: the previous reconstruction (sequential) or the true frame (parallel)."""

    extras: bool = True
    """Whether to add the tables beyond the published protocol: best of k, diversity, drift, and the noise null."""

    against: Literal["paper"] | None = None
    """paper: put the published values beside these even where the evaluation is not the published one. Where it is,
    they are there by themselves."""

    pictures: int = Field(default=3, ge=0, le=100)
    """Clips that the report shows in pictures, spread evenly over the set."""

    per_class: bool = False
    """Whether to print the table of the single classes, too; the report and metrics.json always have it."""

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
    def _in_order(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        unique = tuple(sorted(set(horizons)))
        if not unique or unique[0] < 1:
            raise ValueError("expected numbers of frames from 1 on, such as 1,3")
        return unique

    @model_validator(mode="after")
    def _within_a_clip(self) -> EvaluateConfig:
        clips = f"the {self.frames} frames of a clip; give clips more of them, such as --frames"
        if self.context >= self.frames:
            raise ValueError(f"context is {self.context}, which leaves none of {clips} {self.context + 3}")
        if (longest := self.horizons[-1]) > self.frames:
            raise ValueError(f"horizon {longest} is beyond {clips} {longest + self.context}")
        return self

    @model_validator(mode="after")
    def _first_seed(self) -> EvaluateConfig:
        if self.seeds is None:
            return self
        first = parse_seeds(self.seeds)[0]
        if "seed" in self.model_fields_set and self.seed != first:
            raise ValueError(f"seed is {self.seed}, but seeds are {self.seeds}; give one of them")
        self.__dict__.update(seed=first)  # in place, although a configuration is frozen: pydantic wants its own back
        return self

    @property
    def sampler_seeds(self) -> tuple[int, ...]:
        """The seeds that samples are drawn from; the rows are those of the first."""
        return (self.seed,) if self.seeds is None else parse_seeds(self.seeds)
