"""What a task is: one frozen record, at the end of the file that describes the task. A data set names its task.

B crops or frames · D feature width · C outputs of a head · y × x points of a label · H × W pixels of one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from deltactl.datasets.record import LabelledSet
from deltactl.train.kinds import Kind


@runtime_checkable
class Metric(Protocol):
    """What predictions amount to so far: a small state that adds up exactly, in any order."""

    def __add__(self, other: Any) -> Any:
        """Return the metric of both."""

    def value(self) -> float | None:
        """Return the number to report; None where nothing was measured."""


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
    rendering: Callable[..., Any]
    """Takes, by name, the `head`, the `dataset` (its name), the `true` features of a clip, their `grid`, the `size` of
    pictures, the clip's `labels` and the `names` of classes; returns an `evaluate.renderings.Rendering`."""
