"""The losses of the networks, as means over everything or over the last axis, always in float32.

`log_cosh` trains the tokenizer, unless another `Loss` is named (`registry.LOSSES` lists them; other packages bring
theirs); `smooth_l1` trains and selects in the world models; `psnr` says how near pictures are. All take predictions in
any floating type (bf16 under autocast) and compute in float32, where their differences of nearly equal numbers are
safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMOOTH_L1_BETA = 0.1
"""Where the smooth-L1 loss turns from a parabola into a line, in units of a feature."""
LEAST_SQUARE = 1e-10
"""Mean squared error of pixels below which pictures count as equal: far less than a level of 8 bits."""


def log_cosh(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean of log cosh(prediction − target)."""
    return log_cosh_entries(prediction, target).mean()


def log_cosh_entries(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log cosh(prediction − target) of each entry.

    Written as |d| + softplus(−2|d|) − log 2, which neither overflows for large differences nor loses small ones to
    the exponential.
    """
    distance = (prediction.float() - target.float()).abs()
    return distance + F.softplus(-2 * distance) - math.log(2)


def smooth_l1(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean smooth-L1 loss: d² / 2β below β = 0.1, |d| − β / 2 above."""
    return F.smooth_l1_loss(prediction.float(), target.float(), beta=SMOOTH_L1_BETA)


def smooth_l1_each(
    prediction: Float[Tensor, "*shape D"], target: Float[Tensor, "*#shape D"]
) -> Float[Tensor, "*shape"]:
    """Return the smooth-L1 loss of each vector of width D, the mean over its D entries."""
    return smooth_l1_entries(prediction, target.float().expand_as(prediction)).mean(-1)


def smooth_l1_entries(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the smooth-L1 loss of each entry."""
    return F.smooth_l1_loss(prediction.float(), target.float(), beta=SMOOTH_L1_BETA, reduction="none")


def psnr(prediction: Float[Tensor, "B *shape"], target: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
    """Return the peak signal-to-noise ratio of each picture, values in [0, 1], in dB; 100 dB at most."""
    squared = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return -10 * squared.clamp_min(LEAST_SQUARE).log10()


@dataclass(frozen=True)
class Loss:
    """A loss that the tokenizer may minimise."""

    name: str
    """What settings call it."""

    compute: Callable[[Tensor, Tensor], Tensor]
    """Takes prediction and target (pairs, patches, width), of any floating type (bf16 under autocast); returns the mean
    over everything, in float32."""


LOG_COSH = Loss("log_cosh", log_cosh)
