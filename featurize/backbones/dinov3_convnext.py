"""DINOv3's ConvNeXts (arXiv 2508.10104): the last stage's map, a vector for every 32 × 32 pixels, normed.

The library's output has the map's mean before it, as a class token. Layers are the four stages: each halves the grid of
the one before and has a width of its own, so they cannot stand side by side, and the final norm fits the last only. A
chosen earlier stage has smaller patches: `layers=3&norm=off` gives a vector for every 16 × 16 pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from deltactl.configs.backbone_name import LayerChoice
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.family import BackboneFacts, Family, Outline, check_layers
from deltactl.featurize.backbones.library import (
    UNCHANGED,
    LibraryModel,
    LibraryNetwork,
    hashed,
    settled,
)
from deltactl.featurize.backbones.model_folder import ModelFolder

STEM = 4
"""Pixels along one side of what the first stage sees as one; each further stage doubles it."""
SETTINGS = ("hidden_sizes", "depths", "hidden_act", "layer_norm_eps")
SIZES = {
    "tiny": {},
    "small": {"depths": [3, 3, 27, 3]},
    "base": {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]},
    "large": {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
}


class ConvNeXt(LibraryNetwork):
    """A frozen ConvNeXt."""

    def patches(self, output: Tensor) -> Float[Tensor, "B P D"]:
        """Return the vectors of a stage's map, row by row."""
        return output.flatten(2).mT


MODEL = LibraryModel(
    package="dinov3_convnext",
    config="DINOv3ConvNextConfig",
    model="DINOv3ConvNextModel",
    settings=SETTINGS,
    blocks="model.stages",
    norm="layer_norm",
    prefix=lambda config: 1,  # noqa: ARG005 (the mean)
    network=ConvNeXt,
)


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say; raises as `LibraryModel.facts`."""
    weights, normalisation, config = folder.weight_files(), folder.normalisation(), MODEL.read_config(folder)
    with folder.as_checkpoint_error():
        widths = [int(width) for width in config.hidden_sizes]
        settings = {key: getattr(config, key) for key in SETTINGS}
    choice = chosen(folder, widths)
    stage = choice.layers[0] if choice.layers else len(widths)
    return BackboneFacts(
        dim=widths[stage - 1],
        patch_size=_patch(stage),
        settings=hashed(config.model_type, settings, normalisation, choice),
        weights=weights,
        depth=len(widths),
        can_be_undone=not choice,
    )


def chosen(folder: ModelFolder, widths: list[int]) -> LayerChoice:
    """Return the settled choice of stages of these widths.

    Raises:
        ConfigError: there is no such stage, there are several, or the final norm is not of its width.
    """
    choice = settled(folder, len(widths))
    check_layers(folder, choice, len(widths), alike=False)
    if choice.layers is not None and choice.norm:
        stage = choice.layers[0]
        raise ConfigError(
            f"backbone {folder}: its final norm is {widths[-1]} wide, that of stage {len(widths)}, and stage {stage} "
            f"is {widths[stage - 1]} wide; choose it without the norm (norm=off, --no-norm)"
        )
    return choice


def load(folder: ModelFolder) -> LibraryNetwork:
    """Return the network of a folder.

    Raises:
        CheckpointError: weights and config do not fit.
    """
    model = folder.transformers_model()
    choice = chosen(folder, [int(width) for width in model.config.hidden_sizes])
    return MODEL.network_of(model, folder.normalisation(), choice)


def _patch(stage: int) -> int:
    return STEM << (stage - 1)


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return the outline that a config gives, or the name of a published model."""
    match = re.match(r"dinov3-convnext-(tiny|small|base|large)\b", name)
    if not config and match is None:
        return None
    sizes = {key: config[key] for key in SETTINGS if key in config} if config else SIZES[match[1]] if match else {}
    from transformers.models.dinov3_convnext.configuration_dinov3_convnext import DINOv3ConvNextConfig

    made: Any = DINOv3ConvNextConfig.from_dict(dict(sizes))

    def stage(number: int) -> Outline:
        def network(depth: int) -> LibraryNetwork:  # noqa: ARG001 (stages are not alike)
            last = number == len(made.hidden_sizes)
            choice = LayerChoice() if last else LayerChoice((number,), norm=False)
            return MODEL.network_of(MODEL.model_class()(made), UNCHANGED, choice)

        return Outline(made.hidden_sizes[number - 1], _patch(number), network)

    stages = [stage(number) for number in range(1, len(made.hidden_sizes) + 1)]
    return replace(stages[-1], layers=tuple(stages))


DINOV3_CONVNEXT = Family(
    name="dinov3-convnext",
    title="DINOv3 ConvNeXt",
    model_types=("dinov3_convnext",),
    facts=facts,
    load=load,
    chooses_layers=True,
    outline=outline,
)
