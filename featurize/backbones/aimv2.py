"""AIMv2's vision tower (arXiv 2411.14402): no class token, an RMSNorm at the end.

A folder holds the tower alone, or the whole model with a text tower, which is left out. Native versions compute the
positions of any grid; all others learned those of one, which the library does not interpolate: they take frames of that
size only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import BackboneFacts, Outline
from deltactl.featurize.backbones.library import LibraryModel
from deltactl.featurize.backbones.model_folder import ModelFolder
from deltactl.featurize.backbones.siglip import without_pooling

SIZES = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816},
    "huge": {"hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 12, "intermediate_size": 4096},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 5632},
    "3b": {"hidden_size": 3072, "num_hidden_layers": 24, "num_attention_heads": 24, "intermediate_size": 8192},
}


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `aimv2-SIZE-patch14-PIXELS` and `aimv2-SIZE-patch14-native`."""
    match = re.match(r"aimv2-(large|huge|1b|3b)-patch14-(\d{3}|native)\b", name)
    return {**SIZES[match[1]], "patch_size": 14} if match else None


MODEL = LibraryModel(
    package="aimv2",
    config="Aimv2VisionConfig",
    model="Aimv2VisionModel",
    settings=(
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size"),
        *("hidden_act", "rms_norm_eps", "qkv_bias", "mlp_bias", "is_native"),
    ),
    blocks="encoder.layers",
    norm="rms_norm",
    prepare=without_pooling,
    fixed=lambda config: not config.is_native,
    tower="vision_model.",
    others=("text_model.", "visual_projection.", "text_projection.", "logit_scale"),
    published=published,
    can_be_undone=False,
)


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say; raises as `LibraryModel.facts`."""
    if folder.config.get("model_type") == "aimv2" and "vision_config" not in folder.config:
        raise CheckpointError(
            f"backbone {folder} has no vision_config: it is a version for code of its own, which is never run; take "
            "one for transformers' own classes (model_type aimv2_vision_model, or aimv2 with two towers)"
        )
    return MODEL.facts(folder)


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return the outline as `LibraryModel.outline`, with computed positions: it is asked for frames of any size."""
    sizes = config.get("vision_config", config) if config else published(name)
    return MODEL.outline(name, {**sizes, "is_native": True}) if sizes is not None else None


AIMV2 = replace(MODEL.family("aimv2", "AIMv2", ("aimv2_vision_model", "aimv2")), facts=facts, outline=outline)
