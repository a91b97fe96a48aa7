"""Segmentation: a class for every pixel. Cross-entropy trains, mIoU measures; 255 is ignored.

B crops · C classes · y × x points of a label · H × W pixels of the label's part
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from deltactl.datasets.known import labelled_set
from deltactl.datasets.record import LabelledSet
from deltactl.ingest.shards.labels import IGNORED
from deltactl.tasks.colours import ClassColours, LegendEntry, Picture
from deltactl.tasks.record import Task, resized
from deltactl.train.networks.heads import SegmentationHead, linear_head, to_grid
from deltactl.train.networks.kinds import Kind


def head(dataset: LabelledSet) -> Kind[SegmentationHead]:
    """Return the kind of a data set's head: an output for each of its classes."""
    title = f"segmentation head for {dataset.title}"
    return linear_head(SegmentationHead, dataset.said_as, title, dataset.classes, paper=dataset.paper is not None)


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

        Counted on the device of the scores; the counts come back to the CPU, 8 C² bytes.

        Raises:
            ValueError: the target holds a class that the scores lack.
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


@dataclass(frozen=True)
class ClassRendering:
    """A segmentation head's classes."""

    head: nn.Module
    colours: ClassColours
    grid: tuple[int, int]
    size: tuple[int, int]
    """Height and width of the maps, in pixels."""
    photographic: bool = False

    @classmethod
    def fit(
        cls,
        head: nn.Module,
        dataset: str,
        true: Float[Tensor, "N P D"],
        grid: tuple[int, int],
        size: tuple[int, int],
        labels: Sequence[UInt8[np.ndarray, "h w"]] = (),
        names: tuple[str, ...] = (),
    ) -> ClassRendering:
        """Return the rendering whose colours go to the classes that are frequent on true features and in labels."""
        plain = cls(head, ClassColours(dataset, ()), grid, size)
        maps = [plain.classes(each) for each in true]
        own = labelled_set(dataset).colours
        return cls(head, ClassColours.of(dataset, [*maps, *labels], names, own), grid, size)

    @property
    def name(self) -> str:
        """What it shows, for the label of a row."""
        return f"{labelled_set(self.colours.dataset).title} classes"

    def classes(self, frame: Float[Tensor, "P D"]) -> UInt8[np.ndarray, "h w"]:
        """Return the class ids of one frame."""
        scores = resized(self.head(to_grid(frame[None].float(), self.grid)), self.size)
        return scores.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return [self.colours.paint(self.classes(each)) for each in features]

    def disagreement(self, frames: Float[Tensor, "S P D"]) -> Float[np.ndarray, "h w"]:
        """Return, for each pixel, the share of the frames whose class is not the most frequent one there."""
        counts = np.zeros((256, *self.size), np.int32)
        rows, columns = np.indices(self.size)
        for frame in frames:
            counts[self.classes(frame), rows, columns] += 1
        return np.asarray(1 - counts.max(axis=0) / len(frames))

    def paint(self, label: UInt8[np.ndarray, "h w"]) -> Picture:
        """Return the picture of a label."""
        return self.colours.paint(label)

    def values(self, frame: Float[Tensor, "P D"]) -> UInt8[np.ndarray, "h w"]:
        """Return the class ids of one frame, to be written as they are."""
        return self.classes(frame)

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for."""
        return self.colours.legend()


SEGMENTATION = Task(
    name="segmentation",
    points_per_patch=4,
    head=head,
    loss=class_loss,
    figures=figures,
    measure=ConfusionMatrix.of,
    metric="miou",
    metric_title="mIoU, %",
    rendering=ClassRendering.fit,
)
