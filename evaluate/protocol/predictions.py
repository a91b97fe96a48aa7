"""What the rows of the table are made of: batches of clips, and predicted features with their losses.

A `Prediction` is one set of predicted features for one frame of the clip, and the rows that it counts for: the present
frame serves every horizon, and the best of all samples is also the best of `k` = all. So each set of features goes
through the head once.

B batch (a crop of a clip is an item) · T frames · P patches · D feature width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deltactl.train.networks.losses import log_cosh_entries, smooth_l1_entries

Table = Literal["rows", "best_of_k", "drift"]
Method = Literal["present", "copy_last", "deltatok", "deltaworld", "dinoworld", "noise_null"]
Measure = Literal["log_cosh", "smooth_l1"]


@dataclass(frozen=True, order=True)
class Row:
    """One line of one table; what numbers are collected under."""

    table: Table
    method: Method
    horizon: int
    step: int
    """1 … horizon."""
    select: str = ""
    """How one prediction was made from the samples, `best` or `mean`; empty where there is only one."""
    k: int = 0
    """Samples that the best was chosen from (table `best_of_k`), else 0."""
    draw: int = 0
    """Which seed of several its samples were drawn from: its number among them. Files show the rows of the first."""

    @property
    def measure(self) -> Measure:
        """The published feature loss of this row; the drift tables compare methods, so there it is one for all."""
        if self.table != "drift" and self.method in ("present", "deltatok"):
            return "log_cosh"
        return "smooth_l1"


@dataclass(frozen=True)
class Batch:
    """Clips at hand, as the networks take them. All items have the same grid of patches."""

    keys: tuple[str, ...]
    views: tuple[int, ...]
    """Which crop of the clip each item is."""
    features: Float[Tensor, "B T P D"]
    times: Float[Tensor, "B T"]
    """Seconds; only differences matter."""
    black: Float[Tensor, "P D"]
    """The backbone's features of an all-zero frame."""
    grid: tuple[int, int]
    """Rows and columns of patches."""

    @property
    def frames(self) -> int:
        """Frames in a clip."""
        return int(self.features.shape[1])


@dataclass(frozen=True)
class Prediction:
    """Predicted features of one frame of each clip in a batch, and the rows they belong to."""

    rows: tuple[Row, ...]
    frame: int
    """Index in the clip of the frame they are compared with."""
    features: Float[Tensor, "B P D"]
    losses: Mapping[Measure, Float[Tensor, " B"]]
    """Feature loss of each item, mean over patches and channels, float64."""
    cosine: Float[Tensor, " B"]
    """Cosine distance of each item, mean over patches, float64."""


@dataclass(frozen=True)
class Diversity:
    """How far the samples of each clip lie from each other and from the truth at one step, in smooth-L1."""

    horizon: int
    step: int
    pairwise: Float[Tensor, " B"]
    """Mean over all pairs of samples."""
    to_truth: Float[Tensor, " B"]
    """Mean over the samples."""


def feature_loss(
    measure: Measure, predicted: Float[Tensor, "*B P D"], true: Float[Tensor, "*B P D"]
) -> Float[Tensor, "*B"]:
    """Return the loss of each item, elementwise in float32 and averaged over patches and channels in float64."""
    entries = smooth_l1_entries if measure == "smooth_l1" else log_cosh_entries
    return entries(predicted, true).mean(dim=(-2, -1), dtype=torch.float64)


def cosine_distance(predicted: Float[Tensor, "*B P D"], true: Float[Tensor, "*B P D"]) -> Float[Tensor, "*B"]:
    """Return the mean over the patches of 1 - cos, in float64; 0, not rounding, where both are equal."""
    # 1 - a·b = |a - b|² / 2 of unit vectors, without the difference of two numbers near 1.
    apart = F.normalize(predicted, dim=-1) - F.normalize(true, dim=-1)
    return apart.square().sum(dim=-1, dtype=torch.float64).mean(dim=-1) / 2


def predict_frame(batch: Batch, rows: tuple[Row, ...], frame: int, features: Float[Tensor, "B P D"]) -> Prediction:
    """Return the prediction with the losses that its rows ask for."""
    features = features.float()  # some heads of networks answer in bfloat16 under autocast
    measures = sorted({row.measure for row in rows})
    true = batch.features[:, frame]
    losses = {measure: feature_loss(measure, features, true) for measure in measures}
    return Prediction(rows, frame, features, losses, cosine_distance(features, true))
