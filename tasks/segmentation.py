"""Segmentation: a class for every pixel. Cross-entropy trains, mIoU measures; 255 is ignored.

B crops · C classes · y × x points of a label · H × W pixels of the label's part
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from deltactl.datasets.record import LabelledSet
from deltactl.ingest.labels import IGNORED
from deltactl.tasks.record import Task
from deltactl.train.heads import SegmentationHead, linear_head
from deltactl.train.kinds import Kind


def head(dataset: LabelledSet) -> Kind[SegmentationHead]:
    """Return the kind of a data set's head: an output for each of its classes."""
    title = f"segmentation head for {dataset.title}"
    return linear_head(SegmentationHead, dataset.name, title, dataset.classes, paper=dataset.paper is not None)


def class_loss(logits: Float32[Tensor, "B C y x"], labels: UInt8[Tensor, "B y x"]) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy over the points that count; 0 where none does."""
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def figures(logits: Float32[Tensor, "B C y x"], labels: UInt8[Tensor, "B y x"]) -> Mapping[str, Tensor]:
    """Return the share of right points."""
    counts = labels != IGNORED
    right = (logits.argmax(1) == labels) & counts
    return {"accuracy": right.sum() / counts.sum().clamp(min=1)}


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

    def value(self) -> float | None:
        """Return the mean intersection over union in percent, None where no pixel was counted.

        Classes absent from both prediction and truth are left out, as torchmetrics' `MulticlassJaccardIndex` does.
        """
        intersection = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        present = union > 0
        if not bool(present.any()):
            return None
        return 100 * float((intersection[present] / union[present]).mean())


def rendering(**inputs: Any) -> Any:
    """Return the drawing of a clip's classes; see `Task.rendering`."""
    from deltactl.evaluate.renderings import ClassRendering

    return ClassRendering.fit(**inputs)


SEGMENTATION = Task(
    name="segmentation",
    points_per_patch=4,
    head=head,
    loss=class_loss,
    figures=figures,
    measure=ConfusionMatrix.of,
    metric="miou",
    metric_title="mIoU, %",
    rendering=rendering,
)
