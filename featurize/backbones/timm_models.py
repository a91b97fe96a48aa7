"""Vision transformers of timm (PE-Spatial, EUPE, and whatever else has patch tokens), through transformers' wrapper.

A folder is one of timm's own form on the Hub (config.json with `architecture` and `pretrained_cfg`, which has the
normalisation of pixels) or one that the wrapper saved. Sizes are read from the shapes of the weights. Every model is
made with `dynamic_img_size`, by which timm itself adapts positions to the frames; one that does not know it is refused.
timm is an extra, and needs torchvision: `pip install 'deltactl[timm]'`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.configs.backbone_name import LayerChoice
from deltactl.errors import CheckpointError, MissingExtraError
from deltactl.featurize.backbones.family import BackboneFacts, Family, Outline
from deltactl.featurize.backbones.library import UNCHANGED, LibraryNetwork, hashed, settled
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation
from deltactl.featurize.backbones.weights import open_safetensors

TOWER = "timm_model."
"""What the wrapper puts before the names of weights that it saves."""
HEADS = ("head.", "head_dist.", "fc_norm.")
"""Of a classifier, which the wrapper makes none of."""
PATCHES = "patch_embed.proj.weight"
DYNAMIC = "dynamic_img_size"
"""By which timm adapts positions to the frames; always set, so no part of what tells models apart."""


class TimmTransformer(LibraryNetwork):
    """A frozen vision transformer of timm: all tokens that its `forward_features` returns."""

    def call(self, pixels: Float[Tensor, "B 3 H W"]) -> Any:
        """Return the wrapper's output, without pooling."""
        return self.model(pixels, do_pooling=False)


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say; neither timm nor transformers is imported.

    Raises:
        CheckpointError: it is not whole, or its model has no patch tokens.
        ConfigError: it has not the layers that are chosen.
    """
    weights, normalisation, shapes = folder.weight_files(), _normalisation(folder), _shapes(folder)
    architecture, arguments = folder.config.get("architecture"), folder.config.get("model_args") or {}
    width, _, height_of_patch, width_of_patch = [*shapes.get(PATCHES, ()), 0, 0, 0, 0][:4]
    numbers = [int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))]
    if not width or not numbers or height_of_patch != width_of_patch:
        raise CheckpointError(
            f"backbone {folder}: timm's {architecture} has no square patches ({PATCHES}) and blocks among its weights; "
            "expected a vision transformer, which has patch tokens"
        )
    depth = max(numbers) + 1
    choice = settled(folder, depth, normed="norm.weight" in shapes)
    asked = {key: value for key, value in arguments.items() if key != DYNAMIC}
    return BackboneFacts(
        dim=width * len(choice.layers or (depth,)),
        patch_size=height_of_patch,
        settings=hashed("timm_wrapper", {"architecture": architecture, "model_args": asked}, normalisation, choice),
        weights=weights,
        depth=depth,
        can_be_undone="norm.bias" in shapes and not choice,
        tower=TOWER,
        others=(*HEADS, *(TOWER + head for head in HEADS)),
    )


def load(folder: ModelFolder) -> TimmTransformer:
    """Return the network of a folder.

    Raises:
        CheckpointError: weights and architecture do not fit, or it cannot adapt to frames of other sizes.
        MissingExtraError: timm is not installed, or cannot be imported.
    """
    timm = _timm()
    from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
    from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

    with folder.as_checkpoint_error():
        # The labels are of a classifier that is left out; looking for their names would read files of timm's.
        config: Any = TimmWrapperConfig.from_dict({"num_classes": 0, **folder.config, "label_names": []})
        config.model_args = {**(config.model_args or {}), DYNAMIC: True}
    architecture = config.architecture
    if not timm.is_model(architecture):
        raise CheckpointError(
            f"backbone {folder}: timm {timm.__version__} knows no architecture {architecture!r}; upgrade timm"
        )
    try:
        with torch.device("meta"):
            timm.create_model(architecture, pretrained=False, num_classes=0, **config.model_args)
    except TypeError as error:
        raise CheckpointError(
            f"backbone {folder}: timm's {architecture} cannot be made ({error}); expected a vision transformer that "
            f"takes frames of any size ({DYNAMIC})"
        ) from error
    model = folder.transformers_model(TimmWrapperModel, others=facts(folder).others, config=config)
    inner = model.timm_model
    choice = settled(folder, len(inner.blocks), normed=not isinstance(inner.norm, torch.nn.Identity))
    return _network(model, _normalisation(folder), choice)


def _network(model: Any, normalisation: Normalisation, choice: LayerChoice) -> TimmTransformer:
    inner = model.timm_model
    return TimmTransformer(
        model,
        normalisation,
        blocks="timm_model.blocks",
        norm="timm_model.norm",
        prefix=int(inner.num_prefix_tokens),
        choice=choice,
    )


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # of torchvision, where its build does not fit torch's
        raise MissingExtraError("timm", "timm", f"a backbone of timm ({type(error).__name__}: {error})") from error
    return timm


def _normalisation(folder: ModelFolder) -> Normalisation:
    """Return what config.json says of pixels."""
    said = folder.config.get("pretrained_cfg")
    said = said if isinstance(said, Mapping) else {}
    content = {"image_mean": said.get("mean"), "image_std": said.get("std"), "rescale_factor": 1 / 255}
    return folder.checked_normalisation(content, "pretrained_cfg of config.json")


def _shapes(folder: ModelFolder) -> dict[str, list[int]]:
    """Return the shapes of the weights by their names, from the files' headers."""
    found = {}
    for file in folder.weight_files():
        with open_safetensors(file) as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                found[name.removeprefix(TOWER)] = list(weights.get_slice(name).get_shape())
    return found


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return the outline of an architecture that a config names, or a name such as `vit_base_patch16_dinov3.lvd1689m`.

    None where timm is not there to ask. All blocks are counted, whatever is chosen.
    """
    architecture, dot, _ = name.partition(".")
    architecture = str(config.get("architecture", "")) if config else architecture if dot else ""
    if not architecture:
        return None
    try:
        timm = _timm()
    except MissingExtraError:
        return None
    if not timm.is_model(architecture):
        return None
    from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
    from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

    arguments = {**(config.get("model_args") or {}), DYNAMIC: True}

    def network(depth: int) -> TimmTransformer:  # noqa: ARG001 (the whole, whatever is asked)
        made = TimmWrapperConfig(architecture=architecture, model_args=arguments)
        return _network(TimmWrapperModel(made), UNCHANGED, LayerChoice())

    try:
        with torch.device("meta"):
            inner: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
        return Outline(int(inner.embed_dim), int(inner.patch_embed.patch_size[0]), network)
    except (TypeError, AttributeError):
        return None


TIMM = Family(
    name="timm",
    title="timm",
    model_types=("timm_wrapper",),
    sign="pretrained_cfg",
    facts=facts,
    load=load,
    chooses_layers=True,
    outline=outline,
)
