"""DINOv3's vision transformers (arXiv 2508.10104) as frozen backbones: pixels in, the final LayerNorm's patches out.

Weights and sizes are those of a folder of transformers, whose model runs, up to the last chosen layer. On a GPU, and
compiled, its layers are rearranged (`merged.py`). ViT-B/16 costs about 47 GFLOP for a frame of 256 × 256 pixels and
215 GFLOP for 512 × 512.

`B` batch · `H`, `W` pixels · `P` patches · `D` feature width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from deltactl.configs.backbone_name import LayerChoice
from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import BackboneFacts, Family, Outline
from deltactl.featurize.backbones.library import UNCHANGED, LibraryNetwork, choice_settings, settled
from deltactl.featurize.backbones.merged import merge_layers
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation

# What of config.json the features depend on; the rest is bookkeeping, and differs between library versions.
SETTINGS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_register_tokens"),
    *("patch_size", "rope_theta", "hidden_act", "use_gated_mlp", "layer_norm_eps"),
)
HEAD_WIDTH = 64
"""Width of an attention head in every published model."""


class DINOv3(LibraryNetwork):
    """A frozen DINOv3, whose layers can be merged."""

    def __init__(self, model: Any, normalisation: Normalisation, choice: LayerChoice) -> None:
        prefix = 1 + int(model.config.num_register_tokens)
        super().__init__(model, normalisation, blocks="model.layer", norm="norm", prefix=prefix, choice=choice)
        self._merged = False

    def arrange(self, height: int, width: int, device: torch.device) -> None:
        """Swap the layers once, and make the positions of this size; see `merged`."""
        if not self._merged:
            merge_layers(self.model)
            self._merged = True
        positions: Any = self.model.rope_embeddings
        positions.prepare(height, width, device)


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say.

    Raises:
        CheckpointError: it is not whole.
        ConfigError: it has not the layers that are chosen.
    """
    weights, normalisation = folder.weight_files(), folder.normalisation()
    config = folder.library_config("dinov3_vit", "DINOv3ViTConfig")
    with folder.as_checkpoint_error():
        heads, width, patch = config.num_attention_heads, config.hidden_size, config.patch_size
        fits = isinstance(patch, int) and width % (4 * heads) == 0
    if not fits:
        raise CheckpointError(
            f"backbone {folder}: patch_size {patch!r} with {heads} heads on a width of {width} in config.json; "
            "expected one whole number, and heads whose width is a multiple of 4"
        )
    choice = settled(folder, int(config.num_hidden_layers))
    settings = {key: getattr(config, key) for key in SETTINGS}
    return BackboneFacts(
        dim=int(width) * len(choice.layers or (config.num_hidden_layers,)),
        patch_size=int(patch),
        settings={**settings, **normalisation.settings(), **choice_settings(choice)},
        weights=weights,
        depth=int(config.num_hidden_layers),
        can_be_undone=not choice,
    )


def load(folder: ModelFolder) -> DINOv3:
    """Return the network of a folder.

    Raises:
        CheckpointError: weights and config do not fit.
    """
    model = folder.transformers_model()
    return DINOv3(model, folder.normalisation(), settled(folder, int(model.config.num_hidden_layers)))


# --- what a name says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Sizes of a DINOv3 vision transformer."""

    width: int = 768
    depth: int = 12
    hidden: int = 3072
    """Width inside its MLPs."""
    gated: bool = False
    """Whether its MLPs have a third matrix, as those of the plus and 7B models."""
    patch: int = 16
    registers: int = 4


PUBLISHED = {
    "vits16": Sizes(384, 12, 1536),
    "vits16plus": Sizes(384, 12, 1536, gated=True),
    "vitb16": Sizes(),
    "vitl16": Sizes(1024, 24, 4096),
    "vith16plus": Sizes(1280, 32, 5120, gated=True),
    "vit7b16": Sizes(4096, 40, 8192, gated=True),
}


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return the outline that a config gives, or the part of a name that is a published model's.

    A config may leave sizes out: they are then those of a ViT-B, with MLPs four times as wide as the rest.
    """
    if "hidden_size" in config:
        width, usual = config["hidden_size"], Sizes()
        return outline_of_sizes(
            Sizes(
                width,
                config.get("num_hidden_layers", usual.depth),
                config.get("intermediate_size", 4 * width),
                config.get("use_gated_mlp", usual.gated),
                config.get("patch_size", usual.patch),
                config.get("num_register_tokens", usual.registers),
            )
        )
    words = name.replace("_", "-").split("-")
    return next((outline_of_sizes(PUBLISHED[word]) for word in words if word in PUBLISHED), None)


@cache
def outline_of_sizes(sizes: Sizes) -> Outline:
    """Return the outline of a network of these sizes: the same object for the same sizes."""

    def network(depth: int) -> DINOv3:
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
        from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

        config = DINOv3ViTConfig(
            hidden_size=sizes.width,
            num_hidden_layers=depth,
            num_attention_heads=max(1, sizes.width // HEAD_WIDTH),
            intermediate_size=sizes.hidden,
            use_gated_mlp=sizes.gated,
            num_register_tokens=sizes.registers,
            patch_size=sizes.patch,
        )
        return DINOv3(DINOv3ViTModel(config), UNCHANGED, LayerChoice())

    return Outline(sizes.width, sizes.patch, network, sizes.depth)


DINOV3 = Family(
    name="dinov3",
    title="DINOv3",
    model_types=("dinov3_vit",),
    facts=facts,
    load=load,
    chooses_layers=True,
    outline=outline,
)
