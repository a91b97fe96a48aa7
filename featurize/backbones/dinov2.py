"""DINOv2's vision transformers (arXiv 2304.07193), without registers and with them (arXiv 2309.16588).

Patches of 14 pixels. Positions were learned on one grid, and the library interpolates them for every other one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deltactl.featurize.backbones.library import VIT_SETTINGS, LibraryModel

SETTINGS = (*VIT_SETTINGS, "mlp_ratio", "qkv_bias", "use_swiglu_ffn")
SIZES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
"""Of the published models, where they differ from those of the base one."""


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `dinov2-SIZE`."""
    match = re.match(r"dinov2-(small|base|large|giant)\b", name)
    return {**SIZES[match[1]], "patch_size": 14, "image_size": 518} if match else None


def published_with_registers(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `dinov2-with-registers-SIZE`."""
    return published(name.replace("-with-registers", "")) if "-with-registers" in name else None


DINOV2 = LibraryModel(
    package="dinov2",
    config="Dinov2Config",
    model="Dinov2Model",
    settings=SETTINGS,
    prefix=lambda config: 1,  # noqa: ARG005 (the class token)
    tower="dinov2.",
    others=("classifier.",),
    published=published,
).family("dinov2", "DINOv2", ("dinov2",))

DINOV2_WITH_REGISTERS = LibraryModel(
    package="dinov2_with_registers",
    config="Dinov2WithRegistersConfig",
    model="Dinov2WithRegistersModel",
    settings=(*SETTINGS, "num_register_tokens"),
    prefix=lambda config: 1 + int(config.num_register_tokens),
    tower="dinov2_with_registers.",
    others=("classifier.",),
    published=published_with_registers,
).family("dinov2-with-registers", "DINOv2 with registers", ("dinov2_with_registers",))
