"""Segmentation: a class for every pixel. Cross-entropy trains, mIoU measures; 255 is ignored.

The mean over classes, over the movable ones where the data set names them, and each class by itself come from the
intersections and unions of the classes, which add up.

B crops · C classes · y × x points of a label · H × W pixels of the label's part
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from torch import Tensor, nn

from deltactl.datasets.known import labelled_set
from deltactl.datasets.record import LabelledSet
from deltactl.ingest.shards.labels import IGNORED
from deltactl.tasks.colours import ClassColours, LegendEntry, Picture
from deltactl.tasks.record import Score, Task, resized
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
class ClassOverlaps:
    """Of each class, how many pixels are of it in prediction and truth, and how many in either; without pixels of 255.

    Two numbers a class, where a confusion matrix has as many as there are classes: the counts of every video are kept.
    """

    intersection: Int64[np.ndarray, " C"]
    union: Int64[np.ndarray, " C"]

    @classmethod
    def empty(cls, classes: int) -> ClassOverlaps:
        """Return the overlaps of no pixels."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    @classmethod
    def of(cls, scores: Float[Tensor, "B C H W"], target: UInt8[Tensor, "B H W"]) -> ClassOverlaps:
        """Return the overlaps of a batch: the class of the greatest score against the target.

        Counted on the device of the scores; what comes back to the CPU is 16 C bytes.

        Raises:
            ValueError: the target holds a class that the scores lack.
        """
        classes = scores.shape[1]
        counted = target != IGNORED
        truth, predicted = target[counted].long(), scores.argmax(dim=1)[counted]
        if truth.numel() and int(truth.max()) >= classes:
            raise ValueError(f"a target holds class {int(truth.max())}, but the scores are of {classes} classes")
        both, true, found = (
            torch.bincount(each, minlength=classes) for each in (truth[truth == predicted], truth, predicted)
        )
        intersection, union = torch.stack([both, true + found - both]).cpu().numpy()
        return cls(intersection, union)

    def __add__(self, other: ClassOverlaps) -> ClassOverlaps:
        return ClassOverlaps(self.intersection + other.intersection, self.union + other.union)

    def sums(self) -> Float64[np.ndarray, " N"]:
        """Return the intersections, then the unions."""
        return np.concatenate([self.intersection, self.union]).astype(np.float64)

    def value(self) -> float | None:
        """Return the mean intersection over union in percent, None where no pixel was counted.

        Classes absent from both prediction and truth are left out, as torchmetrics' `MulticlassJaccardIndex` does.
        """
        intersection, union = torch.from_numpy(self.intersection).double(), torch.from_numpy(self.union)
        present = union > 0
        if not bool(present.any()):
            return None
        return 100 * float((intersection[present] / union[present]).mean())


def class_ious(sums: Float64[np.ndarray, "*R N"]) -> Float64[np.ndarray, "*R C"]:
    """Return the intersection over union of every class in percent; NaN of a class that is nowhere."""
    classes = sums.shape[-1] // 2
    union = sums[..., classes:]
    return np.asarray(np.divide(100 * sums[..., :classes], union, out=np.full_like(union, np.nan), where=union > 0))


def mean_iou(sums: Float64[np.ndarray, "*R N"], classes: Sequence[int] | None = None) -> Float64[np.ndarray, "*R 1"]:
    """Return the mean over those of some classes (None: all) that are anywhere; NaN where none is."""
    ious = class_ious(sums)
    ious = ious if classes is None else ious[..., list(classes)]
    there = ~np.isnan(ious)
    count = there.sum(axis=-1, keepdims=True)
    total = np.where(there, ious, 0.0).sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def scores(dataset: LabelledSet, names: tuple[str, ...] = ()) -> tuple[Score, ...]:
    """Return mIoU, that of the movable classes where the data set names them, and the IoU of every class."""
    known = dict(enumerate(names))
    found = [Score(name="miou", title="mIoU, %", better="higher", of=mean_iou)]
    if dataset.movable:
        of_movable = functools.partial(mean_iou, classes=dataset.movable)
        found.append(Score(name="miou_movable", title="mIoU of movable classes, %", better="higher", of=of_movable))
    each = tuple(known.get(number, f"class {number}") for number in range(dataset.classes))
    found.append(Score(name="iou", title="IoU, %", better="higher", of=class_ious, classes=each))
    return tuple(found)


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
    measure=ClassOverlaps.of,
    metric="miou",
    metric_title="mIoU, %",
    scores=scores,
    rendering=ClassRendering.fit,
)
