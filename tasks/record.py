"""What a task is: one frozen record, at the end of the file that describes the task. A data set names its task.

B crops or frames · D feature width · C outputs of a head · y × x points of a label · H × W pixels of one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor

from deltactl.datasets.record import LabelledSet
from deltactl.tasks.colours import LegendEntry, Picture
from deltactl.train.networks.kinds import Kind


@runtime_checkable
class Metric(Protocol):
    """What predictions amount to so far: a small state that adds up exactly, in any order."""

    def __add__(self, other: Any) -> Any:
        """Return the metric of both."""

    def value(self) -> float | None:
        """Return the number to report; None where nothing was measured."""


@runtime_checkable
class Summed(Metric, Protocol):
    """A metric whose scores follow from sums: those of any choice of clips are scored without looking at clips again.

    Resampled videos are such choices, so a task whose metric is summed, and which states its scores, has intervals.
    """

    def sums(self) -> Float64[np.ndarray, " N"]:
        """Return the sums; those of two metrics are the sums of both."""
        ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number that a task reports, or one for each of several classes, from the sums of a metric."""

    name: str
    """In `metrics.json`: small letters, digits and _."""
    title: str
    """Name and unit for people, such as `RMSE, m`."""
    better: Literal["higher", "lower"]
    of: Callable[[Float64[np.ndarray, "*R N"]], Float64[np.ndarray, "*R K"]]
    """Takes sums, perhaps those of `R` choices of clips at once, returns the values; NaN where nothing was measured, as
    0 / 0 is. `K` is 1, or as many as there are `classes`."""
    classes: tuple[str, ...] = ()
    """What the values are of, where there is more than one."""


def no_scores(dataset: LabelledSet, names: tuple[str, ...] = ()) -> tuple[Score, ...]:  # noqa: ARG001
    """Return no scores: the task has its metric alone, without an interval."""
    return ()


@runtime_checkable
class Rendering(Protocol):
    """How a clip is drawn: fitted once, since equal colours must mean the same in all its pictures."""

    @property
    def name(self) -> str:
        """What it shows, for the label of a row."""

    @property
    def photographic(self) -> bool:
        """Whether its pictures are like photographs, better kept as JPEG than as PNG."""

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame's features."""
        ...

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for; nothing where they stand for themselves."""
        ...


@runtime_checkable
class LabelRendering(Rendering, Protocol):
    """What a head says of a clip, drawn as the labels that it was trained on."""

    def paint(self, label: Any) -> Picture:
        """Return the picture of a label."""
        ...

    def values(self, frame: Float[Tensor, "P D"]) -> Shaped[np.ndarray, "_ _"]:
        """Return what the head says of one frame as whole numbers of 8 or 16 bits, to be written as PNG."""
        ...


def resized(maps: Float[Tensor, "1 C h w"], size: tuple[int, int]) -> Float[Tensor, "1 C H W"]:
    """Return a head's output at the size of a picture."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a head is for."""

    name: str
    points_per_patch: int
    """Points of a label along one side of a patch, in training."""
    head: Callable[[LabelledSet], Kind[Any]]
    """Takes a data set, returns the kind of its head: a network of `(B, D, h, w)` → `(B, C, h, w)` on the grid of the
    patches, whose config has the features' width as `dim`. It bears the data set's name."""
    loss: Callable[[Float32[Tensor, "B C y x"], Shaped[Tensor, "B y x"]], Float32[Tensor, ""]]
    """Takes outputs at the points of the labels and the labels, returns the mean over the points that count."""
    figures: Callable[[Float32[Tensor, "B C y x"], Shaped[Tensor, "B y x"]], Mapping[str, Tensor]]
    """Takes the same, returns what validation shows beside the loss, by name."""
    measure: Callable[[Float[Tensor, "B C H W"], Shaped[Tensor, "B H W"]], Metric]
    """Takes outputs at the pixels of the targets and the targets, returns their metric."""
    metric: str
    """Name of the metric in `metrics.json`."""
    metric_title: str
    """Name and unit for people."""
    scores: Callable[[LabelledSet, tuple[str, ...]], tuple[Score, ...]] = no_scores
    """Takes a data set and the names of its classes, as far as they are known, returns what is reported with intervals.
    The one called as `metric` is the metric itself. They need a metric that is `Summed`."""
    rendering: Callable[..., LabelRendering]
    """Takes, by name, the `head`, the `dataset` (its name), the `true` features of a clip, their `grid`, the `size` of
    pictures, the clip's `labels` and the `names` of classes; returns how the clip is drawn."""
