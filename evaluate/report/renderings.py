"""Ways to make features visible whatever the task: principal components as colours, and the RGB head.

Takes features of frames, returns RGB pictures (`tasks.record.Rendering`). A rendering is fitted once, on the true
features of a clip, and then draws true and predicted features: equal colours mean the same. How a head's output is
drawn stands with its task.

`N` frames · `P` patches · `D` feature width
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pictures.pca import FeatureColours
from deltactl.tasks.colours import LegendEntry, Picture
from deltactl.train.networks.heads import to_grid
from deltactl.train.networks.rgb_head import RGBHead


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
