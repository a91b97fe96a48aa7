"""Figures that say whether a network learns what it should, which a falling loss does not show.

A tokenizer whose decoder ignores the tokens looks fine until a world model predicts tokens: its loss is as low as a
decoder gets from the previous frame alone. The *z-swap ratio* finds it out: the loss with tokens swapped within the
batch, all of a frame together, over the loss with the right ones. Near 1 the tokens do nothing. The *copy ratio* is the
loss over that of repeating the previous frame; above 1 the reconstruction is worse than none.

For the world model: the loss of the average query over that of the best one (near 1: the noise does not matter, all
futures are the same), and the spread of the predictions over the queries.

Shapes: B batch · P patches · D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.losses import LOG_COSH, Loss
from deltactl.train.networks.rope import Grid
from deltactl.train.steps.token_spread import SPREAD, token_spread


@torch.no_grad()
def tokenizer_health(
    tokenizer: DeltaTok,
    previous: Float[Tensor, "B P D"],
    current: Float[Tensor, "B P D"],
    grid: Grid,
    loss: Loss = LOG_COSH,
) -> dict[str, Float[Tensor, ""]]:
    """Return the losses that the ratios are made of: `loss`, `swapped` and `copied`; and how widely tokens are spread.

    Of real pairs only, in eval mode, in which positions are not rescaled. One sample has nothing to swap with, and no
    spread: these are left out. Costs one encoder and two decoder passes.
    """
    training = tokenizer.training
    tokenizer.eval()
    try:
        tokens = tokenizer.encode(previous, current, grid)
        losses = {
            "loss": loss.compute(tokenizer.decode(tokens, previous, grid), current),
            "copied": loss.compute(previous, current),
        }
        if len(tokens) > 1:
            # Half a batch away: neighbours may be pairs of the same clip.
            other = tokens.roll(len(tokens) // 2, dims=0)
            losses["swapped"] = loss.compute(tokenizer.decode(other, previous, grid), current)
            losses |= token_spread(tokens)
        return losses
    finally:
        tokenizer.train(training)


def ratios(losses: Mapping[str, float]) -> dict[str, float]:
    """Return the z-swap ratio and the copy ratio of mean losses, and the tokens' spread; left out: what none tells."""
    found = {name: losses[name] for name in SPREAD if name in losses}
    if losses["loss"] > 0 and "swapped" in losses:
        found["z_swap"] = losses["swapped"] / losses["loss"]
    if losses["copied"] > 0:
        found["copy"] = losses["loss"] / losses["copied"]
    return found
