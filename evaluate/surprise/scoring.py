"""How surprising a frame is: what came beside samples of what could have come, as distances and as a calibrated rank.

Takes the features (or tokens) of a frame that came and of S samples of it, drawn from the frames before, returns the
distance of what came to the nearest sample, to their mean and to the last frame seen, and its rank among the samples.

The rank. If the model is right, what came is one more draw like the samples: S + 1 points, any order of which is as
likely as any other (they are exchangeable). Whatever is computed of each point from all the others by one rule is
exchangeable, too. The rule here: a point's distances to all S others, nearest first. The *rank* is the number of
samples that lie less alone than what came: whose nearest other point is nearer. Two points that are nearest to each
other have one distance, so ties are common, and the second nearest decides, then the third, and so on. So under the
model the rank is uniform on 0 … S, and

    p = (number of points, what came among them, at least as alone as what came) / (S + 1)

is a p-value: P(p ≤ a) ≤ a, with equality at the multiples of 1 / (S + 1). What came is one of each sample's others:
leave it out there, and it would be compared with S points, each sample with S - 1 only, and the rank would be too high.
Points that lie the same in every respect (samples that are all alike) count as at least as alone, so p errs upwards.

The least p is 1 / (S + 1). Where a model is overconfident nearly all frames of any video reach it; then distances still
tell frames apart, the rank no more.

Cost: S (S + 1) / 2 distances a frame.

S samples · N entries of a frame: P · D of features, K · d of tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from deltactl.train.networks.losses import smooth_l1_entries


@dataclass(frozen=True)
class Surprise:
    """What is said of one frame in one space. Distances are smooth-L1 (β 0.1), means over all entries."""

    nearest: float
    """From what came to the nearest sample."""
    mean: float
    """From what came to the mean of the samples."""
    copy_last: float
    """From what came to the last frame seen; NaN where that is not known."""
    typical: float
    """Median, over the samples, of the distance to the nearest other sample; NaN of a single one."""
    excess: float
    """How much farther the nearest sample is from what came (as the samples' decoder tells it, where there is one) than
    samples are from each other; NaN of a single one."""
    rank: int
    """Samples that lie less alone than what came: 0 to S, uniform where the model is right."""
    samples: int
    """S."""

    @property
    def score(self) -> float:
        """The rank as a share of the samples: 0 (as near as can be) to 1 (more alone than all of them)."""
        return self.rank / self.samples

    @property
    def p(self) -> float:
        """Share of the S + 1 points that lie at least as alone as what came."""
        return (self.samples + 1 - self.rank) / (self.samples + 1)


def surprise_of(
    came: Float[Tensor, "*N"],
    samples: Float[Tensor, "S *N"],
    last: Float[Tensor, "*N"] | None = None,
    told: Float[Tensor, "*N"] | None = None,
) -> Surprise:
    """Return what is said of a frame; `last` is the last frame seen, in the same space.

    `told`: what came as the decoder that made the samples tells it. Samples lack what the decoder cannot tell, and what
    came does not: to be ranked among them it must have passed through the same decoder. Distances are of what came.

    Raises:
        ValueError: there is no sample.
    """
    if not len(samples):
        raise ValueError("there are no samples; at least one was expected")
    ranked = came if told is None else told
    apart = distances(torch.cat([ranked[None].to(samples.dtype), samples]))
    among = apart[1:, 1:]
    typical = (
        float(np.median((among + np.diag(np.full(len(among), np.inf))).min(axis=1))) if len(among) > 1 else math.nan
    )
    nearest = float(apart[0, 1:].min())
    return Surprise(
        nearest=nearest if told is None else min(_distance(came, sample) for sample in samples),
        mean=_distance(came, samples.mean(dim=0)),
        copy_last=math.nan if last is None else _distance(came, last),
        typical=typical,
        excess=nearest - typical,
        rank=rank_of_first(apart),
        samples=len(samples),
    )


def distances(points: Float[Tensor, "M *N"]) -> Float64[np.ndarray, "M M"]:
    """Return the distance of every pair, each computed once: the matrix is symmetric to the last bit."""
    count = len(points)
    flat = points.reshape(count, -1)
    apart = np.zeros((count, count))
    for row in range(count - 1):
        others = flat[row + 1 :]
        each = smooth_l1_entries(flat[row].expand_as(others), others).mean(dim=1, dtype=torch.float64)
        apart[row, row + 1 :] = apart[row + 1 :, row] = each.cpu().numpy()
    return apart


def rank_of_first(apart: Float64[np.ndarray, "M M"]) -> int:
    """Return how many of the other points lie less alone than the first; see the module docstring."""
    count = len(apart)
    others = apart[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    first, *rest = (tuple(each) for each in np.sort(others, axis=1).tolist())
    return sum(each < first for each in rest)


def _distance(one: Tensor, other: Tensor) -> float:
    return float(smooth_l1_entries(one, other).mean(dtype=torch.float64))
