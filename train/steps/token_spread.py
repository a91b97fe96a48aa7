"""How widely tokens are spread: figures that tell a tokenizer whose tokens say much from one whose tokens say little.

A collapsed tokenizer uses few of its directions, or puts all differences in one place; a loss does not show it. The
figures are of the tokens of some samples (clips, or pairs of frames), each without unit:

- *effective rank*: the exponential of the entropy of the centred tokens' singular values, divided by their sum (Roy and
  Vetterli 2007, "The effective rank"). 1: all lie on one line; at most the width, and one less than there are tokens.
- *spread*: root mean square distance from the mean token, over the root mean square norm. 0: all are the same; 1: their
  mean is zero.
- *dead dimensions*: the share of dimensions that deviate by less than a hundredth of what dimensions deviate by, as the
  root mean square over them.
- *nearest neighbour*: the median distance of a token to the nearest one of another sample, over the mean distance of
  tokens of two samples. Near 0: many samples say the same; near 1: no sample is like another. It falls with the number
  of samples, since the nearest of many is nearer.

Shapes: S samples · N tokens of each · T = S · N tokens · D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SPREAD = ("token_rank", "token_spread", "dead_dimensions", "token_nearest")
DEAD = 0.01
"""Of the root mean square deviation: what varies less is dead."""
AT_ONCE = 512
"""Tokens whose distances to all others are computed at a time."""


@torch.no_grad()
def token_spread(tokens: Float[Tensor, "S N D"]) -> dict[str, Float[Tensor, ""]]:
    """Return `token_rank`, `token_spread`, `dead_dimensions` and `token_nearest` of two tokens or more, in float32.

    All are NaN where one number is not finite, the last of one sample, too.
    """
    finite = tokens.isfinite().all()
    tokens = torch.where(finite, tokens, 0).float()  # LAPACK refuses others
    flat = tokens.flatten(0, 1)
    centred = flat - flat.mean(dim=0)
    nearest, apart = distances(tokens)
    found = {
        "token_rank": effective_rank(torch.linalg.svdvals(centred)),
        "token_spread": spread(centred, flat),
        "dead_dimensions": dead(deviations(flat)).float().mean(),
        "token_nearest": nearness(nearest, apart),
    }
    return {name: torch.where(finite, value, torch.nan) for name, value in found.items()}


def effective_rank(singular: Float[Tensor, " V"]) -> Float[Tensor, ""]:
    """Return the exponential of the entropy of singular values; 0 where all are 0."""
    total = singular.sum()
    shares = singular / total.clamp_min(torch.finfo(singular.dtype).tiny)
    return torch.where(total > 0, torch.special.entr(shares).sum().exp(), torch.zeros_like(total))


def spread(centred: Float[Tensor, "T D"], tokens: Float[Tensor, "T D"]) -> Float[Tensor, ""]:
    """Return how far tokens lie from their mean, over their size; 0 where all are 0."""
    return centred.norm() / tokens.norm().clamp_min(torch.finfo(tokens.dtype).tiny)


def deviations(tokens: Float[Tensor, "T D"]) -> Float[Tensor, " D"]:
    """Return the standard deviation of each dimension."""
    return tokens.float().std(dim=0, correction=0)


def dead(deviation: Float[Tensor, " D"]) -> Bool[Tensor, " D"]:
    """Return which dimensions do not vary, beside the others."""
    return deviation <= DEAD * deviation.square().mean().sqrt()


def nearness(nearest: Float[Tensor, " T"], apart: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """Return the median distance to the nearest over the mean distance of two samples, those of `distances`."""
    return nearest.median() / apart.mean().clamp_min(torch.finfo(apart.dtype).tiny)


def distances(tokens: Float[Tensor, "S N D"]) -> tuple[Float[Tensor, " T"], Float[Tensor, " M"]]:
    """Return each token's distance to the nearest one of another sample, and the distances of two samples' tokens.

    The latter are of the tokens at one place of all samples, so that there are not many more of them than tokens. Where
    there is one sample, the former are infinite, and of the latter there are none.
    """
    samples, each, _ = tokens.shape
    flat = tokens.flatten(0, 1)
    owner = torch.arange(samples, device=tokens.device).repeat_interleave(each)
    nearest = [
        torch.cdist(rows, flat).masked_fill(owner_rows[:, None] == owner[None], torch.inf).amin(dim=1)
        for rows, owner_rows in zip(flat.split(AT_ONCE), owner.split(AT_ONCE), strict=True)
    ]
    return torch.cat(nearest), torch.pdist(tokens[:, each // 2].contiguous())
