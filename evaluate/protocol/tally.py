"""Adds up the losses and metrics of all clips by row, and the diversity of the samples.

A tally of some clips is a small picklable state: metrics are kept for each row and video (2 kB each for 124 classes;
38 MB for the 343 videos of VSPW and all rows), from which intervals are resampled. Tallies of other clips are added in
the order of the plan, and the losses of single crops are kept until the end and summed with correct rounding, so the
numbers are the same bits whatever the batch size and the number of processes, as long as the networks' outputs are.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from deltactl.evaluate.protocol.head_output import fit_to_label
from deltactl.evaluate.protocol.predictions import Diversity, Prediction, Row
from deltactl.tasks.record import Metric, Task
from deltactl.train.networks.heads import to_grid

Key = TypeVar("Key")


@runtime_checkable
class Scorable(Protocol):
    """What scoring has to know of a crop."""

    @property
    def key(self) -> str:
        """Key of its clip."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the stored frame that the crop was cut from."""

    @property
    def whole(self) -> bool:
        """Whether it is the whole frame; else a square of it."""

    @property
    def video(self) -> str:
        """Name of the video that its clip is of."""

    @property
    def view(self) -> int:
        """Which crop of the frame it is."""

    @property
    def crops(self) -> int:
        """How many crops its clip has."""

    def target(self, frame: int) -> Shaped[np.ndarray, "h w"] | None:
        """Return the crop's part of a frame's target, None where the frame has no label."""


@dataclass(frozen=True)
class Counted:
    """A crop that was counted."""

    key: str
    """Of its clip."""
    video: str
    """That its clip is of."""
    share: float
    """One over the number of crops of its clip."""


@dataclass
class Tally:
    """Losses and metrics of some clips."""

    clips: int = 0
    losses: dict[Row, list[float]] = field(default_factory=dict)
    """Feature loss of every crop over the number of crops of its clip, since each clip counts once; in order."""
    cosines: dict[Row, list[float]] = field(default_factory=dict)
    """Cosine distance of the features, likewise."""
    crops: list[Counted] = field(default_factory=list)
    """Every crop, in the order of the losses."""
    metrics: dict[Row, dict[str, Metric]] = field(default_factory=dict)
    """By row, then by video."""
    pairwise: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """By (horizon, step): mean distance between the samples of every crop, likewise."""
    to_truth: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """By (horizon, step): mean distance of the samples to the truth."""

    def visit(self, crops: Sequence[Scorable]) -> None:
        """Take note of the crops of a batch, whose predictions are counted next."""
        self.crops += [Counted(crop.key, crop.video, 1 / crop.crops) for crop in crops]

    def count(self, prediction: Prediction | Diversity, crops: Sequence[Scorable]) -> None:
        """Add the losses of one prediction, or one step's diversity, of every crop of a batch."""

        def shares(values: Float[Tensor, " B"]) -> list[float]:
            return [value / crop.crops for value, crop in zip(values.tolist(), crops, strict=True)]

        if isinstance(prediction, Diversity):
            at = prediction.horizon, prediction.step
            self.pairwise.setdefault(at, []).extend(shares(prediction.pairwise))
            self.to_truth.setdefault(at, []).extend(shares(prediction.to_truth))
            return
        for row in prediction.rows:
            self.losses.setdefault(row, []).extend(shares(prediction.losses[row.measure]))
            self.cosines.setdefault(row, []).extend(shares(prediction.cosine))

    def score(self, rows: Sequence[Row], video: str, metric: Metric) -> None:
        """Add the metric of one labelled frame, or several, of one video."""
        for row in rows:
            videos = self.metrics.setdefault(row, {})
            videos[video] = videos[video] + metric if video in videos else metric

    def add(self, other: Tally) -> None:
        """Add the tally of the clips that come next."""
        self.clips += other.clips
        self.crops += other.crops
        _extend(self.losses, other.losses)
        _extend(self.cosines, other.cosines)
        _extend(self.pairwise, other.pairwise)
        _extend(self.to_truth, other.to_truth)
        for row, videos in other.metrics.items():
            for video, metric in videos.items():
                self.score([row], video, metric)

    def loss(self, row: Row) -> float | None:
        """Return the mean feature loss of a row over all clips."""
        return self.mean(self.losses.get(row, []))

    def mean(self, shares: Sequence[float]) -> float | None:
        """Return the mean over the clips of what is kept by crop; correctly rounded, in whatever order."""
        return math.fsum(shares) / self.clips if shares else None

    def value(self, row: Row) -> float | None:
        """Return the metric of a row, such as the mIoU in percent; None where no pixel was labelled."""
        metric = self.metric(row)
        return None if metric is None else metric.value()

    def metric(self, row: Row) -> Metric | None:
        """Return the metric of a row over all videos; None where no frame was labelled."""
        return functools.reduce(operator.add, self.metrics[row].values()) if row in self.metrics else None


def score_prediction(
    tally: Tally,
    prediction: Prediction,
    task: Task,
    head: nn.Module,
    crops: Sequence[Scorable],
    targets: dict[tuple[int, int], Tensor],
    grid: tuple[int, int],
) -> None:
    """Send predicted features through the head and count every labelled crop.

    `targets` holds, by (number in the batch, frame), what is on the device already, and is filled here: a target moves
    to the device once for all rows.
    """
    labelled = []
    for number, crop in enumerate(crops):
        part = crop.target(prediction.frame)
        if part is None:
            continue
        if (number, prediction.frame) not in targets:
            moved = torch.from_numpy(np.ascontiguousarray(part)).to(prediction.features.device)
            targets[number, prediction.frame] = moved
        labelled.append(number)
    if not labelled:
        return
    output = head(to_grid(prediction.features[labelled], grid))
    for index, number in enumerate(labelled):
        target, crop = targets[number, prediction.frame], crops[number]
        size = (int(target.shape[0]), int(target.shape[1]))
        fitted = fit_to_label(output[index : index + 1], size, crop.frame_size, crop.view, whole=crop.whole)
        tally.score(prediction.rows, crop.video, task.measure(fitted, target[None]))


def _extend(mine: dict[Key, list[float]], theirs: dict[Key, list[float]]) -> None:
    for key, values in theirs.items():
        mine.setdefault(key, []).extend(values)
