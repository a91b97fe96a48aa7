"""The networks of an evaluation: read from their checkpoints, checked against each other, put on a device.

Everything that does not fit is found here, before any work begins: a head with other classes, a tokenizer for features
of another width, a world model for other tokens. What is not given is left out, and `Networks.left_out` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from deltactl.configs.evaluate import CLIP_FRAMES, HEAD_VARIABLES, EvaluateConfig
from deltactl.errors import CheckpointError
from deltactl.evaluate.rows import Models, forecast_horizons
from deltactl.featurize.backbone import Backbone
from deltactl.train.checkpoint_files import read_contents
from deltactl.train.checkpoints import load_dinoworld, load_head, load_tokenizer, load_world, network_hash
from deltactl.train.heads import DepthHead, SegmentationHead
from deltactl.train.rgb_head import RGBHead


@dataclass(frozen=True)
class Networks:
    """The networks that were given; eval mode, float32."""

    models: Models
    head: nn.Module | None

    def to(self, device: torch.device) -> Networks:
        """Return them on a device."""
        models = (self.models.tokenizer, self.models.world, self.models.dinoworld)
        for network in (*models, self.head):
            if network is not None:
                network.to(device)
        return self

    @cached_property
    def hashes(self) -> Mapping[str, str | None]:
        """Return the content hash of each network, None for those that were not given."""
        networks = {
            "tokenizer": self.models.tokenizer,
            "world": self.models.world,
            "dinoworld": self.models.dinoworld,
            "head": self.head,
        }
        return {name: None if network is None else network_hash(network) for name, network in networks.items()}


def load_networks(config: EvaluateConfig, dim: int) -> Networks:
    """Return the networks of a resolved configuration, for features of width `dim`, on the CPU.

    CheckpointError where one cannot be read, is of another kind, or does not fit the features or the other networks.
    """
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    world = load_world(config.world) if config.world else None
    dinoworld = load_dinoworld(config.dinoworld) if config.dinoworld else None
    head = load_head(config.head, config.dataset) if config.head else None
    features = f"the backbone {config.backbone} makes features of width {dim}"
    if tokenizer is not None and tokenizer.config.width != dim:
        raise misfit("tokenizer", config.tokenizer, tokenizer.config.width, features)
    if dinoworld is not None and dinoworld.config.feature_dim != dim:
        raise misfit("dinoworld", config.dinoworld, dinoworld.config.feature_dim, features)
    if head is not None:
        assert isinstance(head, SegmentationHead | DepthHead), "that is what the data sets have"
        if head.bn.num_features != dim:
            raise misfit("head", config.head, head.bn.num_features, features)
    if world is not None and tokenizer is not None and world.config.token_dim != tokenizer.config.width:
        tokens = f"the tokenizer {config.tokenizer} makes tokens of width {tokenizer.config.width}"
        raise misfit("world", config.world, world.config.token_dim, tokens)
    return Networks(Models(tokenizer, world, dinoworld), head)


def strangers(places: Iterable[tuple[str, str | None]], here: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for each checkpoint that was trained behind other frozen networks than those it is used with.

    `places` are names of options and their checkpoints; `here` maps `backbone` and `tokenizer` to content hashes.
    Widths may agree all the same, and results then look like those of a bad network. Published weights do not say.
    """
    notes = []
    for option, place in places:
        frozen = read_contents(place).provenance.get("frozen") if place else None
        for name, trained in frozen.items() if isinstance(frozen, Mapping) else ():
            if here.get(name) not in (None, trained):
                notes.append(
                    f"--{option} {place} was trained behind another {name} (content hash {str(trained)[:12]}…) than "
                    f"the one it is used with ({str(here[name])[:12]}…); its results mean little"
                )
    return notes


def load_rgb_head(place: str, backbone: Backbone) -> RGBHead:
    """Return the RGB head for pictures of this backbone's features, on the CPU; errors as `load_networks`."""
    head = load_head(place, "rgb")
    assert isinstance(head, RGBHead)
    if head.config.dim != backbone.dim:
        features = f"the backbone {backbone.name} makes features of width {backbone.dim}"
        raise misfit("rgb-head", place, head.config.dim, features)
    return head


def names_in_head(place: str | None) -> tuple[str, ...]:
    """Return the names of the classes by id that the training of a head wrote down; none where it did not."""
    names = read_contents(place).provenance.get("classes") if place else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def left_out(config: EvaluateConfig) -> list[str]:
    """Return a sentence for each part of the table that a resolved configuration leaves out, and what would add it."""
    notes = []
    if not config.head:
        variable = HEAD_VARIABLES[config.dataset]
        notes.append(f"no --head (nor {variable}): there are feature losses, but no values of the metric")
    if not config.tokenizer:
        notes.append("no --tokenizer: the rows of DeltaTok are left out")
    if not config.world or not config.tokenizer:
        missing = " and ".join(f"--{name}" for name in ("tokenizer", "world") if not getattr(config, name))
        notes.append(f"no {missing}: the rows of DeltaWorld are left out")
    if not config.dinoworld:
        notes.append("no --dinoworld: the rows of DINO-world are left out")
    if far := [horizon for horizon in config.horizons if horizon not in forecast_horizons(config)]:
        notes.append(
            f"horizon {', '.join(map(str, far))} after {config.context} frames is beyond the {CLIP_FRAMES} frames of a "
            "clip: copy last, DeltaWorld and DINO-world are left out there"
        )
    if config.world and config.tokenizer and config.extras and config.samples == 1:
        notes.append("one sample has no spread: the noise null and the diversity are left out")
    return notes


def misfit(option: str, place: str | None, width: int, found: str) -> CheckpointError:
    """Return the error of a checkpoint for features or tokens of another width than the ones it is given."""
    return CheckpointError(f"--{option} {place} is for width {width}, but {found}; name the one that belongs to it")
