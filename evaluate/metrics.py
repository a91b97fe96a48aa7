"""mIoU and RMSE over a whole set, exact whatever the batches, processes and devices.

In come predictions at the size of their labels and targets (`ingest.labels`), out come numbers, by way of small states
that add up: integers for segmentation; for sums of floats, fractions, whose addition does not round, so that any order
and any number of processes give the same bits.

B crops · C classes · H, W pixels of the label's part
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.ingest.labels import IGNORED


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many pixels of each class (row) were predicted as each class (column); pixels of class 255 are left out."""

    counts: Int64[Tensor, "C C"]

    @classmethod
    def empty(cls, classes: int) -> ConfusionMatrix:
        """Return the matrix of no pixels."""
        return cls(torch.zeros(classes, classes, dtype=torch.int64))

    @classmethod
    def of(cls, scores: Float[Tensor, "B C H W"], target: UInt8[Tensor, "B H W"]) -> ConfusionMatrix:
        """Return the matrix of a batch: the class of the greatest score against the target.

        Counted on the device of the scores; the counts come back to the CPU, 8 C² bytes. ValueError where the target
        holds a class that the scores lack.
        """
        classes = scores.shape[1]
        counted = target != IGNORED
        truth, predicted = target[counted].long(), scores.argmax(dim=1)[counted]
        if truth.numel() and int(truth.max()) >= classes:
            raise ValueError(f"a target holds class {int(truth.max())}, but the scores are of {classes} classes")
        counts = torch.bincount(truth * classes + predicted, minlength=classes * classes)
        return cls(counts.reshape(classes, classes).cpu())

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    def miou_percent(self) -> float | None:
        """Return the mean intersection over union in percent, None where no pixel was counted.

        Classes absent from both prediction and truth are left out, as torchmetrics' `MulticlassJaccardIndex` does.
        """
        intersection = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        present = union > 0
        if not bool(present.any()):
            return None
        return 100 * float((intersection[present] / union[present]).mean())


@dataclass(frozen=True)
class SquaredError:
    """The sum of squared depth errors, in square metres, over all pixels whose target is above 0."""

    total: Fraction = Fraction(0)
    pixels: int = 0

    @classmethod
    def of(cls, depth: Float[Tensor, "B 1 H W"], target: Float[Tensor, "B H W"]) -> SquaredError:
        """Return the errors of a batch of depths in metres: differences in float32, sums in float64.

        CheckpointError where a depth that counts is not finite.
        """
        counted = target > 0
        difference = torch.where(counted, depth.squeeze(1).float() - target, 0)
        sums = difference.double().square().flatten(1).sum(1)
        return cls(_exact_sum(sums.tolist()), int(counted.sum()))

    def __add__(self, other: SquaredError) -> SquaredError:
        return SquaredError(self.total + other.total, self.pixels + other.pixels)

    def rmse_metres(self) -> float | None:
        """Return the root of the mean squared error in metres, None where no pixel was counted."""
        return math.sqrt(self.total / self.pixels) if self.pixels else None


def _exact_sum(values: list[float]) -> Fraction:
    if not all(math.isfinite(value) for value in values):
        raise CheckpointError(
            "a prediction is not finite: the weights have diverged, or do not belong to these features; "
            "try another checkpoint"
        )
    return sum((Fraction(value) for value in values), Fraction(0))
