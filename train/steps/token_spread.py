"""How widely tokens are spread: figures that tell a tokenizer whose tokens say much from one whose tokens say little.

A collapsed tokenizer uses few of its directions, or puts all differences in one place; a loss does not show it. The
figures are of a sample of tokens, each without unit:

- *effective rank*: the exponential of the entropy of the centred tokens' singular values, divided by their sum (Roy and
  Vetterli 2007, "The effective rank"). 1: all lie on one line; at most the width, and one less than there are tokens.
- *spread*: root mean square distance from the mean token, over the root mean square norm. 0: all are the same; 1: their
  mean is zero.
- *dead dimensions*: the share of dimensions that deviate by less than a hundredth of what dimensions deviate by, as the
  root mean square over them.

Shapes: N tokens · D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SPREAD = ("token_rank", "token_spread", "dead_dimensions")
DEAD = 0.01
"""Of the root mean square deviation: what varies less is dead."""


@torch.no_grad()
def token_spread(tokens: Float[Tensor, "N D"]) -> dict[str, Float[Tensor, ""]]:
    """Return `token_rank`, `token_spread` and `dead_dimensions`, of two tokens or more, in float32.

    All are NaN where one number is not finite.
    """
    finite = tokens.isfinite().all()
    tokens = torch.where(finite, tokens, 0).float()  # LAPACK refuses others
    centred = tokens - tokens.mean(dim=0)
    found = {
        "token_rank": effective_rank(torch.linalg.svdvals(centred)),
        "token_spread": centred.norm() / tokens.norm().clamp_min(torch.finfo(torch.float32).tiny),
        "dead_dimensions": dead(deviations(tokens)).float().mean(),
    }
    return {name: torch.where(finite, value, torch.nan) for name, value in found.items()}


def effective_rank(singular: Float[Tensor, " S"]) -> Float[Tensor, ""]:
    """Return the exponential of the entropy of singular values; 0 where all are 0."""
    total = singular.sum()
    shares = singular / total.clamp_min(torch.finfo(singular.dtype).tiny)
    return torch.where(total > 0, torch.special.entr(shares).sum().exp(), torch.zeros_like(total))


def deviations(tokens: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """Return the standard deviation of each dimension."""
    return tokens.float().std(dim=0, correction=0)


def dead(deviation: Float[Tensor, " D"]) -> Bool[Tensor, " D"]:
    """Return which dimensions do not vary, beside the others."""
    return deviation <= DEAD * deviation.square().mean().sqrt()
