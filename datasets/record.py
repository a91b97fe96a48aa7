"""What a data set is: one frozen record, at the end of the file that describes the set.

A set either has videos, from which clips are cut (`VideoSet`), or says itself which clips it has, with labels of some
of their frames (`LabelledSet`): an evaluation set. Records are found by name (`datasets.known`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.listing import Listing
from deltactl.ingest.shards.geometry import Box, cut, evaluation_size
from deltactl.ingest.sources import VideoListing
from deltactl.ingest.video.columns import PathTexts
from deltactl.locations import Location


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What all data sets have."""

    name: str
    """As `--dataset` takes it: lower case, no spaces."""
    title: str
    """As its owners write it."""
    split: Literal["train", "val"] | None
    """The split that is taken unless another is named; None for a set without splits."""


@dataclass(frozen=True, kw_only=True)
class VideoSet(DataSet):
    """Videos, or folders of frames, from which clips are cut at random times."""

    listing: Callable[[Sequence[Path], str | None], VideoListing]
    """Takes the named paths and the split, returns the sources; raises ConfigError if they cannot be listed."""
    clips: int
    """Clips cut from each video, unless another number is named."""
    single_root: bool = True
    """Whether one path is named, its root; otherwise any number of folders and videos."""
    path_texts: PathTexts | None = None
    """Takes the path of a source, returns the texts that it tells, by names of columns (`clip.…`), the same for all.
    Clips carry them unless others are asked for. A function of a module, since it goes to other processes."""


@runtime_checkable
class ListClips(Protocol):
    """Lists the clips of a split of a labelled set."""

    def __call__(
        self,
        root: Location,
        *,
        split: Literal["train", "val"],
        split_file: Location | None,
        frames: int,
        frames_per_step: int = 1,
    ) -> Listing:
        """Return the clips of `frames` frames each; of so many steps, of `frames_per_step` each (`frames_until`).

        Raises:
            ConfigError: the tree or the split file is of another kind.
        """
        ...


@dataclass(frozen=True)
class PaperFigures:
    """What the paper reports of a set (arXiv 2604.04913)."""

    values: Mapping[tuple[str, str, int], float]
    """The metric of the last step by (method, select, horizon)."""
    least_clips: int
    """Fewer clips than this are not the whole set."""


@dataclass(frozen=True, kw_only=True)
class LabelledSet(DataSet):
    """Clips whose last frame is labelled: an evaluation set."""

    listing: ListClips
    fps: float
    """Frames a second of its videos."""
    task: str
    """Name of the task that its labels are for (`tasks`)."""
    label: Literal["mask", "depth"]
    """What its labels are called in a shard: `KEY.000.mask.png`, of 8 bits, or `KEY.000.depth.png`, of 16."""
    target: Callable[[Shaped[np.ndarray, "h w"]], Shaped[np.ndarray, "h2 w2"]]
    """Takes a stored label, returns what a prediction is compared with: uint8 class ids, 255 where none counts, or
    float32 metres, 0 where none counts; of the part of the frame that is used."""
    classes: int = 0
    """Number of classes; 0 where the labels are no classes."""
    movable: tuple[int, ...] = ()
    """Ids of the classes that move by themselves, such as people and vehicles; empty: the set does not name them."""
    class_names: Callable[[Location | None], tuple[str, ...]] = lambda root: ()  # noqa: ARG005
    """Takes the root of the set, where it is had, returns the names of the classes by id, as far as they are known."""
    used: Callable[[int, int], Box] | None = None
    """Takes height and width of a frame, returns the part that is used; raises ValueError if the frame is too small.
    None: all of it is used."""
    paper: PaperFigures | None = None
    colours: tuple[tuple[int, int, int] | None, ...] = ()
    """Colours of the classes in pictures by id, None for one without; empty: they are chosen clip by clip."""
    check: Callable[[Shaped[np.ndarray, "h w"]], str | None] | None = None
    """Takes a stored label, returns what it has that it must not have, as the rest of a sentence; None where all is
    well."""
    frame_size: tuple[int, int] | None = None
    """Height and width of all frames; None: any."""
    root: str | None = None
    """Where its data are, unless another place is named."""

    @property
    def said_as(self) -> str:
        """What shards, heads and reports call it: a name by which a record is found again (`datasets.known`)."""
        return self.name

    @property
    def identity(self) -> dict[str, Any]:
        """What the identity of shards says of it besides."""
        return {}

    @property
    def label_bits(self) -> int:
        """Bits of a stored label's pixels."""
        return 16 if self.label == "depth" else 8

    def cut(self, frame: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "h2 w2 *c"]:
        """Return the part of a frame that is used.

        Raises:
            ValueError: the frame is too small.
        """
        return frame if self.used is None else cut(frame, self.used(frame.shape[0], frame.shape[1]))

    def stored_size(self, height: int, width: int, size: FrameSize) -> tuple[int, int]:
        """Return height and width at which frames of such a size are stored, for an evaluation at `size`."""
        if self.used is not None:
            box = self.used(height, width)
            height, width = box.height, box.width
        return evaluation_size(height, width, size)
