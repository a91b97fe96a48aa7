"""What is measured of a clip: how much each step changes it, how much it moves at all, and what it looks like.

Takes the numbers of some clips of a store, returns three arrays. Of features and of tokens they mean the same:

- *changes* (C, T - 1): how far each frame is from the one before it. Of features the distance of the frames' means
  over their patches: things that move change it little, another scene changes it much. Of tokens the distance of a
  frame's token to the usual one, for a token tells what is new in a frame.
- *movement* (C,): the largest step. Of features the distance of two frames patch by patch; of tokens, how far those of
  a clip lie from each other, since frames that are the same have the same token (NaN where there is one).
- *look* (C, L): a vector of unit length (of no length where there is nothing but what is usual): of features the mean
  and the standard deviation of each channel over frames and patches, of tokens their mean over frames; less what is
  usual. Two clips are as alike as its cosine.

All are relative to what is usual in the store (`Usual`), so that they do not depend on the scale of its numbers.

Shapes: C clips · T frames · P patches · K tokens of a frame · D width · L width of a look.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

TINY = 1e-12


@dataclass(frozen=True)
class Usual:
    """What is usual in a store, from clips spread evenly over it."""

    centre: Float32[Tensor, " D"]
    """Of features the mean of the patches; of tokens the mean of those of all frames but the first, (K · D)."""
    first: Float32[Tensor, " L"]
    """Mean of the looks before it is subtracted."""
    spread: float
    """Root of the mean squared distance of patches, or tokens, from the centre."""

    @classmethod
    def of_features(cls, features: Float[Tensor, "C T P D"]) -> Usual:
        """Return that of a sample of features."""
        flat = features.float().flatten(0, 2)
        centre = flat.mean(0)
        return cls(centre, _mean_and_deviation(features).mean(0), (flat - centre).square().sum(1).mean().sqrt().item())

    @classmethod
    def of_tokens(cls, tokens: Float[Tensor, "C T K D"]) -> Usual:
        """Return that of a sample of tokens of two frames at least."""
        flat = tokens.float().flatten(2)
        later = flat[:, 1:].flatten(0, 1)
        centre = later.mean(0)
        return cls(centre, flat.mean((0, 1)), (later - centre).square().sum(1).mean().sqrt().item())


@dataclass(frozen=True)
class Measures:
    """What was measured of some clips."""

    changes: Float32[Tensor, "C S"]
    """S = T - 1 steps."""
    movement: Float32[Tensor, " C"]
    looks: Float32[Tensor, "C L"]


def measure_features(features: Float[Tensor, "C T P D"], usual: Usual) -> Measures:
    """Measure clips of features; takes one pass over them."""
    features = features.float()
    scale, means = max(usual.spread, TINY), features.mean(2)
    changes = (means[:, 1:] - means[:, :-1]).square().sum(-1).sqrt() / scale
    steps = (features[:, 1:] - features[:, :-1]).square().sum(-1).mean(-1).sqrt() / scale
    return Measures(changes, steps.amax(1), looks_of_features(features, usual))


def measure_tokens(tokens: Float[Tensor, "C T K D"], usual: Usual) -> Measures:
    """Measure clips of tokens; takes one pass over them."""
    flat = tokens.float().flatten(2)
    later = flat[:, 1:]
    scale = max(usual.spread, TINY)
    changes = (later - usual.centre).square().sum(-1).sqrt() / scale
    apart = (later - later.mean(1, keepdim=True)).square().sum(-1).sqrt().amax(1) / scale
    if later.shape[1] == 1:
        apart = torch.full_like(apart, torch.nan)
    return Measures(changes, apart, looks_of_tokens(tokens, usual))


def looks_of_features(features: Float[Tensor, "C T P D"], usual: Usual) -> Float32[Tensor, "C L"]:
    """Return what clips of features look like: means and deviations, less the usual ones, of unit length; L is 2 D."""
    return _unit(_mean_and_deviation(features) - usual.first)


def looks_of_tokens(tokens: Float[Tensor, "C T K D"], usual: Usual) -> Float32[Tensor, "C L"]:
    """Return what clips of tokens look like: the mean of their frames' tokens, less the usual, of unit length."""
    return _unit(tokens.float().mean(1).flatten(1) - usual.first)


def _mean_and_deviation(features: Float[Tensor, "C T P D"]) -> Float32[Tensor, "C L"]:
    deviation, mean = torch.std_mean(features.float().flatten(1, 2), dim=1, correction=0)
    return torch.cat((mean, deviation), dim=1)


def _unit(vectors: Float32[Tensor, "C L"]) -> Float32[Tensor, "C L"]:
    return torch.nn.functional.normalize(vectors, dim=1, eps=TINY)
