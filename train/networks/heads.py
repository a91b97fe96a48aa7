"""Task heads: segmentation and depth from a frame's feature grid.

Takes features as a grid `(B, D, h, w)`; returns class scores, or metres, one per patch. Each is a batch norm and a 1×1
convolution, so they cost next to nothing; resizing to the labels is the evaluation's.

Shapes: B batch · P patches · D feature width · h, w rows and columns of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.network import Network

NEAREST_METRES = 1e-3
FARTHEST_METRES = 80.0
LEAST_WEIGHT = 0.1
"""What every depth bin has beside its logit: no bin is ever ruled out."""


@dataclass(frozen=True)
class LinearHeadConfig:
    """Sizes of a segmentation or depth head."""

    dim: int
    """Width of the features."""

    outputs: int
    """Classes, or depth bins."""


def to_grid(features: Float[Tensor, "B P D"], grid: tuple[int, int]) -> Float[Tensor, "B D h w"]:
    """Return patch features as the picture that a head takes."""
    rows, columns = grid
    return features.transpose(1, 2).reshape(features.shape[0], features.shape[2], rows, columns)


class SegmentationHead(Network):
    """Class scores for every patch."""

    def __init__(self, config: LinearHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.bn = nn.BatchNorm2d(config.dim)
        self.head = nn.Conv2d(config.dim, config.outputs, kernel_size=1)

    def forward(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B classes h w"]:
        """Return the logits."""
        return self.head(self.bn(features))


class DepthHead(Network):
    """Metres for every patch, as the mean of evenly spaced bins from 1 mm to 80 m.

    A bin's weight is relu(logit) + 0.1, over the sum of all: no bin is ever ruled out.
    """

    def __init__(self, config: LinearHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.bn = nn.BatchNorm2d(config.dim)
        self.head = nn.Conv2d(config.dim, config.outputs, kernel_size=1)

    def forward(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 1 h w"]:
        """Return the depth, in float32."""
        weights = F.relu(self.head(self.bn(features)).float()) + LEAST_WEIGHT
        centres = torch.linspace(NEAREST_METRES, FARTHEST_METRES, weights.shape[1], device=weights.device)
        # One sum over the bins for the mean and one for the weights; no matrix product, which autocast would round.
        total = (weights * centres[:, None, None]).sum(dim=1, keepdim=True)
        return total / weights.sum(dim=1, keepdim=True)


LinearHead = TypeVar("LinearHead", SegmentationHead, DepthHead)


def linear_head(
    network: type[LinearHead], dataset: str, title: str, outputs: int, *, paper: bool = False
) -> Kind[LinearHead]:
    """Return the kind of a data set's linear head, under the data set's name.

    Heads of several sets may have as many outputs, and differ in the header; weights without one are taken for those
    of the first set.
    """

    return Kind(
        name=dataset,
        title=title,
        network=network,
        default=LinearHeadConfig(768, outputs),
        infer=partial(_infer, outputs),
        paper=paper,
        dataset=dataset,
    )


def _infer(outputs: int, weights: Shapes) -> LinearHeadConfig | None:
    """Return the sizes that the weights of a linear head show, if it has so many outputs."""
    if not (weights.begin_with("bn") and weights.begin_with("head")):
        return None
    if weights.size("head.weight", 0, axes=4) != outputs:
        return None
    return LinearHeadConfig(weights.size("head.weight", 1, axes=4), outputs)
