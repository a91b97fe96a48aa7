"""Depth: metres for every pixel. The scale-invariant log loss trains, RMSE measures; 0 does not count.

The loss is that of Eigen et al. (NeurIPS 2014) with λ = 0.5, for each image over its points with a depth. Sums of
errors are fractions, whose addition does not round: any order and any number of processes give the same bits.

B crops · y × x points of a label · H × W pixels of the label's part
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt16
from torch import Tensor, nn

from deltactl.datasets.record import LabelledSet
from deltactl.errors import CheckpointError
from deltactl.tasks.colours import LegendEntry, Picture, depth_legend, paint_depth
from deltactl.tasks.record import Score, Task, resized
from deltactl.train.networks.heads import DepthHead, linear_head, to_grid
from deltactl.train.networks.kinds import Kind

BINS = 256
DEPTH_SCALE = 256
"""Units of a metre in depth files, as KITTI's."""
MOST_METRES = 65535 / DEPTH_SCALE
SCALE_INVARIANCE = 0.5
WITHIN = 1.25
"""Ratio below which a depth counts for δ1."""


def head(dataset: LabelledSet) -> Kind[DepthHead]:
    """Return the kind of a data set's head, of the published number of bins."""
    title = f"depth head for {dataset.title}"
    return linear_head(DepthHead, dataset.said_as, title, BINS, paper=dataset.paper is not None)


def loss(output: Float32[Tensor, "B 1 y x"], depth: Float32[Tensor, "B y x"]) -> Float32[Tensor, ""]:
    """Return the scale-invariant log loss."""
    return scale_invariant_log(output[:, 0], depth)


def scale_invariant_log(predicted: Float32[Tensor, "B y x"], depth: Float32[Tensor, "B y x"]) -> Float32[Tensor, ""]:
    """Return mean(d²) − λ mean(d)², d = log predicted − log depth, over each image's points with a depth."""
    counts = depth > 0
    number = counts.sum(dim=(1, 2)).clamp(min=1)
    difference = torch.where(counts, predicted.log() - depth.where(counts, torch.ones_like(depth)).log(), 0.0)
    mean = difference.sum(dim=(1, 2)) / number
    mean_square = (difference**2).sum(dim=(1, 2)) / number
    return (mean_square - SCALE_INVARIANCE * mean**2).mean()


def figures(output: Float32[Tensor, "B 1 y x"], depth: Float32[Tensor, "B y x"]) -> Mapping[str, Tensor]:
    """Return the root of the mean squared error in metres."""
    counts = depth > 0
    squared = ((output[:, 0] - depth) ** 2 * counts).sum() / counts.sum().clamp(min=1)
    return {"rmse": squared.sqrt()}


@dataclass(frozen=True)
class DepthErrors:
    """Sums of depth errors over all pixels whose target is above 0."""

    squared: Fraction = Fraction(0)
    """Squares of the differences, in square metres."""
    relative: Fraction = Fraction(0)
    """Differences, without their signs, over the true depth."""
    within: int = 0
    """Pixels whose depth is less than 1.25 times the true one, and that less than 1.25 times the predicted one."""
    pixels: int = 0

    @classmethod
    def of(cls, depth: Float[Tensor, "B 1 H W"], target: Float[Tensor, "B H W"]) -> DepthErrors:
        """Return the errors of a batch of depths in metres: differences in float32, sums in float64.

        Raises:
            CheckpointError: a depth that counts is not finite.
        """
        counted = target > 0
        predicted = depth.squeeze(1).float()
        difference = torch.where(counted, predicted - target, 0).double()
        relative = difference.abs() / torch.where(counted, target, 1)
        within = counted & (predicted < WITHIN * target) & (target < WITHIN * predicted)
        each = (difference.square(), relative, within.double(), counted.double())
        sums = torch.stack([values.flatten(1).sum(1) for values in each]).tolist()  # one wait for the device
        return cls(_exact_sum(sums[0]), _exact_sum(sums[1]), int(sum(sums[2])), int(sum(sums[3])))

    def __add__(self, other: DepthErrors) -> DepthErrors:
        return DepthErrors(
            self.squared + other.squared,
            self.relative + other.relative,
            self.within + other.within,
            self.pixels + other.pixels,
        )

    def sums(self) -> Float64[np.ndarray, " 4"]:
        """Return the sums in the order of the fields."""
        return np.array([self.squared, self.relative, self.within, self.pixels], np.float64)

    def value(self) -> float | None:
        """Return the root of the mean squared error in metres, None where no pixel was counted."""
        return math.sqrt(self.squared / self.pixels) if self.pixels else None


def _over_pixels(sums: Float64[np.ndarray, "*R 4"], field: int) -> Float64[np.ndarray, "*R 1"]:
    pixels = sums[..., 3:]
    out = np.full_like(pixels, np.nan)
    return np.asarray(np.divide(sums[..., field : field + 1], pixels, out=out, where=pixels > 0))


def scores(dataset: LabelledSet, names: tuple[str, ...] = ()) -> tuple[Score, ...]:  # noqa: ARG001
    """Return RMSE, the mean relative error and the share within 1.25, each over all pixels of the set."""
    return (
        Score(name="rmse", title="RMSE, m", better="lower", of=lambda sums: np.sqrt(_over_pixels(sums, 0))),
        Score(name="abs_rel", title="AbsRel", better="lower", of=lambda sums: _over_pixels(sums, 1)),
        Score(name="delta1", title="δ1, %", better="higher", of=lambda sums: 100 * _over_pixels(sums, 2)),
    )


def _exact_sum(values: list[float]) -> Fraction:
    if not all(math.isfinite(value) for value in values):
        raise CheckpointError(
            "a prediction is not finite: the weights have diverged, or do not belong to these features; "
            "try another checkpoint"
        )
    return sum((Fraction(value) for value in values), Fraction(0))


@dataclass(frozen=True)
class DepthRendering:
    """A depth head's metres."""

    head: nn.Module
    grid: tuple[int, int]
    size: tuple[int, int]
    """Height and width of the maps, in pixels."""
    name: str = "depth"
    photographic: bool = False

    def metres(self, frame: Float[Tensor, "P D"]) -> Float32[np.ndarray, "h w"]:
        """Return the depth of one frame in metres."""
        return resized(self.head(to_grid(frame[None].float(), self.grid)), self.size)[0, 0].cpu().numpy()

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return [paint_depth(self.metres(each)) for each in features]

    def paint(self, label: Float32[np.ndarray, "h w"]) -> Picture:
        """Return the picture of a label."""
        return paint_depth(label)

    def values(self, frame: Float[Tensor, "P D"]) -> UInt16[np.ndarray, "h w"]:
        """Return the depth of one frame in KITTI's units, to be written as it is."""
        return np.asarray(np.rint(np.clip(self.metres(frame), 0, MOST_METRES) * DEPTH_SCALE), np.uint16)

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for."""
        return depth_legend()


def rendering(**inputs: Any) -> DepthRendering:
    """Return the drawing of a clip's depth, which is the same for all clips; see `Task.rendering`."""
    return DepthRendering(inputs["head"], inputs["grid"], inputs["size"])


DEPTH = Task(
    name="depth",
    points_per_patch=16,
    head=head,
    loss=loss,
    figures=figures,
    measure=DepthErrors.of,
    metric="rmse",
    metric_title="RMSE, m",
    scores=scores,
    rendering=rendering,
)
