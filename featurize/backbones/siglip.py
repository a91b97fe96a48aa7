"""SigLIP's vision tower (arXiv 2303.15343), and SigLIP 2's of fixed size (arXiv 2502.14786), which is the same network.

A folder holds the tower alone, or the whole model, of which the text's half is left out. There is no class token;
positions were learned on one grid, and the library interpolates them for every other one. NaFlex versions of SigLIP 2
(`model_type` siglip2) are refused: they take lists of patches of at most so many, in place of frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import BackboneFacts
from deltactl.featurize.backbones.library import VIT_SETTINGS, LibraryModel
from deltactl.featurize.backbones.model_folder import ModelFolder

NAFLEX = ("siglip2", "siglip2_vision_model")
SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "so400m": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304},
    "giant-opt": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 16, "intermediate_size": 6144},
}


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `siglip-SIZE-patchN-PIXELS` and `siglip2-…`."""
    match = re.match(r"siglip2?-(base|large|so400m|giant-opt)-patch(\d{2})-(\d{3})\b", name)
    return {**SIZES[match[1]], "patch_size": int(match[2]), "image_size": int(match[3])} if match else None


def without_pooling(model: Any) -> None:
    """Remove the head that makes one vector of all patches."""
    model.use_head, model.head = False, None


MODEL = LibraryModel(
    package="siglip",
    config="SiglipVisionConfig",
    model="SiglipVisionModel",
    settings=(*VIT_SETTINGS, "intermediate_size"),
    blocks="encoder.layers",
    norm="post_layernorm",
    arguments={"interpolate_pos_encoding": True},
    prepare=without_pooling,
    tower="vision_model.",
    others=("text_model.", "logit_scale", "logit_bias", "classifier."),
    published=published,
)


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say; raises as `LibraryModel.facts`."""
    if folder.config.get("model_type") in NAFLEX:
        raise CheckpointError(
            f"backbone {folder} is a NaFlex model (model_type {folder.config['model_type']}): it takes at most so many "
            "patches of a picture, not frames; take a SigLIP 2 of fixed size, such as google/siglip2-base-patch16-256"
        )
    return MODEL.facts(folder)


SIGLIP = replace(MODEL.family("siglip", "SigLIP", ("siglip", "siglip_vision_model", *NAFLEX)), facts=facts)
