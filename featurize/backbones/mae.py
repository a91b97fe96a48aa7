"""The encoders of masked autoencoders (MAE, arXiv 2111.06377), which see every patch here.

The library's model drops a share of the patches and shuffles the rest. The share becomes 0, and the noise that the
order comes from becomes the patches' own numbers, so that they stay where they are. The decoder is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.featurize.backbones.library import VIT_SETTINGS, LibraryModel, LibraryNetwork

SIZES = {
    "vit-mae-base": {},
    "vit-mae-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "vit-mae-huge": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "patch_size": 14,
    },
}


class MAE(LibraryNetwork):
    """A frozen MAE, nothing masked."""

    def call(self, pixels: Float[Tensor, "B 3 H W"]) -> Any:
        """Return what the model's forward returns, patches in their own order."""
        model: Any = self.model
        side = int(model.config.patch_size)
        count = (pixels.shape[2] // side) * (pixels.shape[3] // side)
        order = torch.arange(count, device=pixels.device).expand(len(pixels), count)
        return model(pixel_values=pixels, noise=order, **self.arguments)


def mask_nothing(model: Any) -> None:
    """Have the model keep all patches."""
    model.config.mask_ratio = 0.0


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `vit-mae-SIZE`."""
    return SIZES.get(name)


VIT_MAE = LibraryModel(
    package="vit_mae",
    config="ViTMAEConfig",
    model="ViTMAEModel",
    settings=(*VIT_SETTINGS, "intermediate_size", "qkv_bias"),
    blocks="layers",
    prefix=lambda config: 1,  # noqa: ARG005 (the class token)
    arguments={"interpolate_pos_encoding": True},
    network=MAE,
    prepare=mask_nothing,
    tower="vit.",
    others=("decoder.", "classifier."),
    published=published,
).family("mae", "MAE", ("vit_mae",))
