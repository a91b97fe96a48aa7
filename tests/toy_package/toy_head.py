"""A head with a hidden layer, in place of the linear one: for the blocks, and for Cityscapes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deltactl.train.networks.kinds import Kind


@dataclass(frozen=True)
class MLPHeadConfig:
    """Sizes of the head."""

    dim: int = 768
    hidden: int = 32
    classes: int = 19


class MLPHead(nn.Module):
    """Class scores for every patch, through a hidden layer."""

    def __init__(self, config: MLPHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm2d(config.dim)
        self.inner = nn.Conv2d(config.dim, config.hidden, kernel_size=1)
        self.outer = nn.Conv2d(config.hidden, config.classes, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.outer(self.inner(self.norm(features)).relu())


BLOCKS_MLP = Kind(
    name="blocks-mlp",
    title="two-layer head for Blocks",
    network=MLPHead,
    default=MLPHeadConfig(classes=5),
    dataset="blocks",
)
CITYSCAPES_MLP = Kind(
    name="cityscapes-mlp",
    title="two-layer head for Cityscapes",
    network=MLPHead,
    default=MLPHeadConfig(),
    dataset="cityscapes",
)
