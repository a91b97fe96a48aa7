"""Tiny models of every family of image backbones, random, as the library itself writes them; and its own forward.

Weights are drawn so large that every part of a network matters to its features.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KEPT = ("norm_mean", "norm_std", "gamma")
"""Of C-RADIO's pixels, and how much the blocks of a ConvNeXt, which look around, add to what lies in one place."""
MEAN, STD, RESCALE = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 1 / 255
WIDTH, DEPTH = 32, 3
VIT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
    "hidden_act": "gelu",
}
MLP = {**VIT, "intermediate_size": 48}


@dataclass(frozen=True)
class Tiny:
    """How a tiny model of a family is made, and what the library makes of pixels."""

    package: str
    config: str
    model: str
    values: Mapping[str, Any]
    prefix: int
    sizes: Sequence[tuple[int, int]] = ((32, 32), (24, 56))
    """Heights and widths of frames that it takes."""
    patch: int = 8
    depth: int = DEPTH
    norm: str | None = "layernorm"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: Callable[[Any, Tensor], Mapping[str, Any]] = lambda model, pixels: {}
    """What the library's forward is called with for these pixels, besides them."""
    normalises: bool = True
    """Whether the folder's image processor normalises pixels; else the network itself does."""

    def make(self) -> Any:
        """Return the library's model with large random weights."""
        module = importlib.import_module(f"transformers.models.{self.package}.modeling_{self.package}")
        configuration = importlib.import_module(f"transformers.models.{self.package}.configuration_{self.package}")
        config = getattr(configuration, self.config)(**self.values)
        model = getattr(module, self.model)(config).eval()
        enlarge(model)
        return model

    def write(self, place: Path) -> Any:
        """Write a folder, and return its model."""
        model = self.make()
        model.save_pretrained(place)
        write_preprocessing(place, normalises=self.normalises)
        return model

    def reference(self, model: Any, frames: Tensor, layer: int | None = None, *, normed: bool = True) -> Tensor:
        """Return the patches that the library makes of uint8 frames: of its last hidden state, or of one layer."""
        pixels = frames.float() * RESCALE
        if self.normalises:
            pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        options = {**self.arguments, **self.call(model, pixels)}
        with torch.no_grad():
            made = model(pixel_values=pixels, output_hidden_states=layer is not None, **options)
            if layer is None:
                return made.last_hidden_state[:, self.prefix :]
            hidden = made.hidden_states[layer]
            hidden = hidden.flatten(2).mT if hidden.ndim == 4 else hidden[:, self.prefix :]
            return model.get_submodule(self.norm)(hidden) if normed and self.norm else hidden


def enlarge(model: nn.Module) -> None:
    """Draw the weights of a model anew, so that no part is negligible."""
    random = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim > 0 and name.rpartition(".")[2] not in KEPT:
            scale = 1.0 if value.ndim == 1 else 1.5 * value[0].numel() ** -0.5
            value.copy_(scale * torch.randn(value.shape, generator=random) + (value.ndim == 1))


def write_preprocessing(place: Path, *, normalises: bool = True) -> None:
    """Write a folder's preprocessor_config.json."""
    values = {"image_mean": MEAN, "image_std": STD, "rescale_factor": RESCALE, "do_rescale": True}
    content = {**values, "do_normalize": normalises}
    (place / "preprocessor_config.json").write_text(json.dumps(content))


def in_order(model: Any, pixels: Tensor) -> dict[str, Any]:
    """Return the noise that leaves the patches of a masked autoencoder in their order."""
    side = model.config.patch_size
    count = (pixels.shape[2] // side) * (pixels.shape[3] // side)
    return {"noise": torch.linspace(0, 1, count).expand(len(pixels), -1)}


INTERPOLATED = {"interpolate_pos_encoding": True}
SIGLIP = {**MLP, "image_size": 32}
AIMV2 = {**MLP, "hidden_act": "silu"}
FAMILIES = {
    "dinov3": Tiny(
        "dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "num_register_tokens": 3}, prefix=4, norm="norm"
    ),
    "dinov3-convnext": Tiny(
        "dinov3_convnext",
        "DINOv3ConvNextConfig",
        "DINOv3ConvNextModel",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.1},
        prefix=1,
        sizes=((64, 64), (64, 160)),
        patch=32,
        depth=4,
        norm="layer_norm",
    ),
    "dinov2": Tiny("dinov2", "Dinov2Config", "Dinov2Model", VIT, prefix=1),
    "dinov2-with-registers": Tiny(
        "dinov2_with_registers",
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {**VIT, "num_register_tokens": 2, "use_swiglu_ffn": True},
        prefix=3,
    ),
    "siglip": Tiny(
        "siglip",
        "SiglipVisionConfig",
        "SiglipVisionModel",
        SIGLIP,
        prefix=0,
        norm="post_layernorm",
        arguments=INTERPOLATED,
    ),
    "ijepa": Tiny("ijepa", "IJepaConfig", "IJepaModel", MLP, prefix=0, arguments=INTERPOLATED),
    "mae": Tiny(
        "vit_mae",
        "ViTMAEConfig",
        "ViTMAEModel",
        {**MLP, "mask_ratio": 0.0},
        prefix=1,
        arguments=INTERPOLATED,
        call=in_order,
    ),
    "aimv2": Tiny(
        "aimv2", "Aimv2VisionConfig", "Aimv2VisionModel", AIMV2, prefix=0, sizes=((32, 32),), norm="rms_norm"
    ),
    "aimv2-native": Tiny(
        "aimv2", "Aimv2VisionConfig", "Aimv2VisionModel", {**AIMV2, "is_native": True}, prefix=0, norm="rms_norm"
    ),
    "radio": Tiny(
        "radio",
        "RadioConfig",
        "RadioModel",
        {**VIT, "max_img_size": 64, "mlp_ratio": 2.0, "num_cls_tokens": 2, "num_registers": 3},
        prefix=5,
        norm=None,
        normalises=False,
    ),
}
