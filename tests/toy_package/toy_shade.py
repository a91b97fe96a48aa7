"""A task of its own: how bright the mask is, with its head, loss, metric and drawing, and a set that asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from toy_blocks import BLOCKS

from deltactl.datasets.record import LabelledSet
from deltactl.tasks.colours import LegendEntry, Picture, paint_amount
from deltactl.tasks.record import Score, Task, resized
from deltactl.train.networks.heads import to_grid
from deltactl.train.networks.kinds import Kind


@dataclass(frozen=True)
class ShadeHeadConfig:
    """Sizes of the head."""

    dim: int = 768


class ShadeHead(nn.Module):
    """A number from 0 to 1 for every patch."""

    def __init__(self, config: ShadeHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm2d(config.dim)
        self.out = nn.Conv2d(config.dim, 1, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the shades."""
        return self.out(self.norm(features)).sigmoid()


def head(dataset: LabelledSet) -> Kind[ShadeHead]:
    """Return the kind of a data set's head."""
    return Kind(
        name=dataset.name,
        title=f"shade head for {dataset.title}",
        network=ShadeHead,
        default=ShadeHeadConfig(),
        dataset=dataset.name,
    )


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the mean absolute error."""
    return (output[:, 0] - labels).abs().mean()


@dataclass(frozen=True)
class AbsoluteError:
    """The sum of absolute errors, over so many pixels."""

    total: float
    pixels: int

    @classmethod
    def of(cls, output: Tensor, target: Tensor) -> AbsoluteError:
        """Return the errors of some crops."""
        return cls(float((output[:, 0].double() - target).abs().sum()), target.numel())

    def __add__(self, other: AbsoluteError) -> AbsoluteError:
        return AbsoluteError(self.total + other.total, self.pixels + other.pixels)

    def value(self) -> float | None:
        """Return the mean."""
        return self.total / self.pixels if self.pixels else None

    def sums(self) -> np.ndarray:
        """Return what the mean follows from: intervals come with it."""
        return np.array([self.total, self.pixels], np.float64)


def scores(dataset: LabelledSet, names: tuple[str, ...] = ()) -> tuple[Score, ...]:
    """Return what is reported."""
    return (
        Score(name="mae", title="mean absolute error", better="lower", of=lambda sums: sums[..., :1] / sums[..., 1:]),
    )


@dataclass(frozen=True)
class ShadeRendering:
    """Shades as colours."""

    head: nn.Module
    grid: tuple[int, int]
    size: tuple[int, int]
    name: str = "shade"
    photographic: bool = False

    def shades(self, frame: Tensor) -> np.ndarray:
        """Return the shades of one frame."""
        return resized(self.head(to_grid(frame[None].float(), self.grid)), self.size)[0, 0].cpu().numpy()

    def pictures(self, features: Tensor) -> list[Picture]:
        """Return the picture of each frame."""
        return [paint_amount(self.shades(each)) for each in features]

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return nothing."""
        return ()

    def paint(self, label: np.ndarray) -> Picture:
        """Return the picture of a label."""
        return paint_amount(label)

    def values(self, frame: Tensor) -> np.ndarray:
        """Return the shades in 255 steps."""
        return np.asarray(self.shades(frame) * 255, np.uint8)


def rendering(**inputs: Any) -> ShadeRendering:
    """Return how a clip is drawn."""
    return ShadeRendering(inputs["head"], inputs["grid"], inputs["size"])


SHADE = Task(
    name="shade",
    points_per_patch=2,
    head=head,
    loss=loss,
    figures=lambda output, labels: {"largest": (output[:, 0] - labels).abs().max()},
    measure=AbsoluteError.of,
    metric="mae",
    metric_title="mean absolute error",
    scores=scores,
    rendering=rendering,
)


def shade(label: np.ndarray) -> np.ndarray:
    """Return the mask's values from 0 to 1."""
    return (label / 5).astype(np.float32)


SHADED_BLOCKS = replace(BLOCKS, name="shaded-blocks", title="shaded Blocks", task="shade", target=shade, classes=0)
