"""Ways to make features visible: principal components as colours, the RGB head, and the data sets' heads.

In come features of frames, out come RGB pictures. A rendering is fitted once on the true features of a clip and then
shows true and predicted features alike, so that equal colours mean the same. Frames go through a head one by one: a
picture is for looking at, and 124 classes at 512 × 512 pixels take 130 MB each.

`N` frames · `P` patches · `D` feature width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from deltactl.datasets.known import labelled_set
from deltactl.evaluate.colours import ClassColours, LegendEntry, depth_legend, paint_depth
from deltactl.evaluate.pictures import Picture
from deltactl.featurize.backbone import Backbone
from deltactl.featurize.pca import FeatureColours
from deltactl.train.heads import DepthHead, to_grid
from deltactl.train.rgb_head import RGBHead


@runtime_checkable
class Rendering(Protocol):
    """One way to make features visible."""

    @property
    def name(self) -> str:
        """What it shows, for the label of a row."""

    @property
    def photographic(self) -> bool:
        """Whether its pictures are like photographs, better kept as JPEG than as PNG."""

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        ...

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for; nothing where they stand for themselves."""
        ...


@dataclass(frozen=True)
class ComponentRendering:
    """The first three principal components as red, green and blue: one pixel a patch."""

    colours: FeatureColours
    grid: tuple[int, int]
    name: str = "features (PCA)"
    photographic: bool = False

    @classmethod
    def fit(cls, true: Float[Tensor, "N P D"], grid: tuple[int, int]) -> ComponentRendering:
        """Return the rendering fitted on the true features of a clip."""
        return cls(FeatureColours.fit(true), grid)

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return list(self.colours.rgb(features).unflatten(1, self.grid).numpy())

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return nothing: components have no names."""
        return ()


@dataclass(frozen=True)
class RGBRendering:
    """The RGB head's pictures."""

    head: RGBHead
    backbone: Backbone
    grid: tuple[int, int]
    name: str = "RGB head"
    photographic: bool = True

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return [self._picture(each) for each in features.split(1)]

    def _picture(self, frame: Float[Tensor, "1 P D"]) -> Picture:
        rgb = self.head(to_grid(frame.float(), self.grid), self.backbone)[0].clamp(0, 1)
        return np.asarray((rgb * 255).round().to(torch.uint8).permute(1, 2, 0).cpu())

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return nothing: colours are those of the world."""
        return ()


@dataclass(frozen=True)
class ClassRendering:
    """A segmentation head's classes."""

    head: nn.Module
    colours: ClassColours
    grid: tuple[int, int]
    size: tuple[int, int]
    """Height and width of the maps, in pixels."""
    photographic: bool = False

    @classmethod
    def fit(
        cls,
        head: nn.Module,
        dataset: str,
        true: Float[Tensor, "N P D"],
        grid: tuple[int, int],
        size: tuple[int, int],
        labels: Sequence[UInt8[np.ndarray, "h w"]] = (),
        names: tuple[str, ...] = (),
    ) -> ClassRendering:
        """Return the rendering whose colours go to the classes that are frequent on true features and in labels."""
        plain = cls(head, ClassColours(dataset, ()), grid, size)
        maps = [plain.classes(each) for each in true]
        return cls(head, ClassColours.of(dataset, [*maps, *labels], names), grid, size)

    @property
    def name(self) -> str:
        """What it shows, for the label of a row."""
        return f"{labelled_set(self.colours.dataset).title} classes"

    def classes(self, frame: Float[Tensor, "P D"]) -> UInt8[np.ndarray, "h w"]:
        """Return the class ids of one frame."""
        scores = _resized(self.head(to_grid(frame[None].float(), self.grid)), self.size)
        return scores.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return [self.colours.paint(self.classes(each)) for each in features]

    def disagreement(self, frames: Float[Tensor, "S P D"]) -> Float[np.ndarray, "h w"]:
        """Return, for each pixel, the share of the frames whose class is not the most frequent one there."""
        counts = np.zeros((256, *self.size), np.int32)
        rows, columns = np.indices(self.size)
        for frame in frames:
            counts[self.classes(frame), rows, columns] += 1
        return np.asarray(1 - counts.max(axis=0) / len(frames))

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for."""
        return self.colours.legend()


@dataclass(frozen=True)
class DepthRendering:
    """A depth head's metres."""

    head: DepthHead
    grid: tuple[int, int]
    size: tuple[int, int]
    """Height and width of the maps, in pixels."""
    name: str = "depth"
    photographic: bool = False

    def metres(self, frame: Float[Tensor, "P D"]) -> Float32[np.ndarray, "h w"]:
        """Return the depth of one frame in metres."""
        return _resized(self.head(to_grid(frame[None].float(), self.grid)), self.size)[0, 0].cpu().numpy()

    def pictures(self, features: Float[Tensor, "N P D"]) -> list[Picture]:
        """Return the picture of each frame."""
        return [paint_depth(self.metres(each)) for each in features]

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what its colours stand for."""
        return depth_legend()


def _resized(maps: Float[Tensor, "1 C h w"], size: tuple[int, int]) -> Float[Tensor, "1 C H W"]:
    return functional.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
