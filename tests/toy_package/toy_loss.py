"""A loss for the tokenizer: Charbonnier's, a smooth absolute value."""

from __future__ import annotations

import torch
from torch import Tensor

from deltactl.train.networks.losses import Loss

EPSILON = 1e-3


def charbonnier(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean of √(d² + ε²) − ε."""
    difference = prediction.float() - target.float()
    return (torch.sqrt(difference**2 + EPSILON**2) - EPSILON).mean()


CHARBONNIER = Loss("charbonnier", charbonnier)
