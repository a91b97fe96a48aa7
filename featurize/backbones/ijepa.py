"""I-JEPA's vision transformers (arXiv 2301.08243): no class token; the library interpolates positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deltactl.featurize.backbones.library import VIT_SETTINGS, LibraryModel

SIZES = {
    "h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
    "g": {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 16, "intermediate_size": 6144},
}


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `ijepa_vith14_1k` and its like."""
    match = re.match(r"ijepa_vit([hg])(\d{2})_", name)
    return {**SIZES[match[1]], "patch_size": int(match[2])} if match else None


IJEPA = LibraryModel(
    package="ijepa",
    config="IJepaConfig",
    model="IJepaModel",
    settings=(*VIT_SETTINGS, "intermediate_size", "qkv_bias"),
    blocks="layers",
    arguments={"interpolate_pos_encoding": True},
    tower="ijepa.",
    others=("classifier.",),
    published=published,
).family("ijepa", "I-JEPA", ("ijepa",))
