"""What goes beyond the paper's protocol: best of k, the diversity of the samples, and the noise null.

- *Best of k*: the best of the first `k` samples at the last frame of the horizon. It shows how much the choice, which
  knows the truth, gains as `k` grows.
- *Diversity*: the mean distance between two samples, beside the mean distance of a sample to the truth (smooth-L1).
- *Noise null*: since the best of 20 is chosen with the truth at hand, even noise gains by it. This row is the best of
  20 copies of the last context frame with noise added that spreads as the samples do. For each clip and step, the noise
  is Gaussian with the samples' own covariance about their mean: `Σ_s g_s (x_s - mean) / sqrt(S - 1)`, `g ~ N(0, 1)`. So
  every patch and channel has the samples' standard deviation, and they vary together as in the samples. (Were every
  element drawn on its own, the average over a hundred thousand of them would make all copies equally far from the
  truth, and there would be nothing to choose.) A copy keeps its `g` over the steps of a rollout.

B batch · S samples · H horizon · P patches · D feature width
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.evaluate.protocol.futures import clip_generator
from deltactl.evaluate.protocol.predictions import Batch, Diversity, Prediction, Row, feature_loss, predict_frame

BEST_OF = (1, 2, 5, 10, 20)


def best_of_row(horizon: int, k: int) -> Row:
    """Return the row of the best of the first `k` samples."""
    return Row("best_of_k", "deltaworld", horizon, horizon, "best", k)


def diversity(futures: Float[Tensor, "B S H P D"], losses: Float[Tensor, "B S H"]) -> Iterator[Diversity]:
    """Yield the spread of the samples at every step; `losses` are their distances to the truth. At least 2 samples."""
    for step in range(futures.shape[2]):
        at = futures[:, :, step].unbind(dim=1)
        apart = [feature_loss("smooth_l1", a, b) for a, b in itertools.combinations(at, 2)]
        yield Diversity(futures.shape[2], step + 1, torch.stack(apart).mean(dim=0), losses[:, :, step].mean(dim=1))


def noise_null(batch: Batch, futures: Float[Tensor, "B S H P D"], seed: int, draw: int = 0) -> Iterator[Prediction]:
    """Yield the best copy of the last context frame with the samples' own noise, at every step.

    Needs at least 2 samples, of the seed that is number `draw`. Centres `futures` in place, which saves a copy of the
    largest tensor there is.
    """
    samples, horizon = futures.shape[1:3]
    first = batch.frames - horizon
    last = batch.features[:, first - 1]
    deviations = spread_of(futures)
    weights = torch.stack(
        [
            torch.randn(samples, samples, generator=clip_generator(seed, key, view, f"noise-h{horizon}"))
            for key, view in zip(batch.keys, batch.views, strict=True)
        ]
    ).to(last.device)

    def copy(weight: Float[Tensor, "B S"], step: int) -> Float[Tensor, "B P D"]:
        return last + noise(deviations[:, :, step], weight)

    true = batch.features[:, -1]
    losses = [feature_loss("smooth_l1", copy(each, horizon - 1), true) for each in weights.unbind(dim=1)]
    best = torch.stack(losses, dim=1).argmin(dim=1)
    chosen = weights[torch.arange(len(weights), device=weights.device), best]
    for step in range(horizon):
        row = Row("rows", "noise_null", horizon, step + 1, "best", draw=draw)
        yield predict_frame(batch, (row,), first + step, copy(chosen, step))


def spread_of(futures: Float[Tensor, "B S *rest"]) -> Float[Tensor, "B S *rest"]:
    """Return the samples' deviations from their mean over `sqrt(S - 1)`, computed in place."""
    return futures.sub_(futures.mean(dim=1, keepdim=True)).div_(math.sqrt(futures.shape[1] - 1))


def noise(deviations: Float[Tensor, "B S P D"], weights: Float[Tensor, "B S"]) -> Float[Tensor, "B P D"]:
    """Return noise with the samples' covariance, for `weights` from N(0, 1) and `deviations` from `spread_of`."""
    # No matrix product, which autocast would round.
    return (weights[:, :, None, None] * deviations).sum(dim=1)
