"""The networks of an evaluation: read from their checkpoints, checked against each other, put on a device.

Everything that does not fit is found here, before any work begins: a head with other classes, a tokenizer for features
of another width, a world model for other tokens. What is not given is left out, and `Networks.left_out` says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from deltactl.configs.evaluate import CLIP_FRAMES, EvaluateConfig
from deltactl.configs.follow import refuse_unused
from deltactl.configs.names import head_variable
from deltactl.errors import CheckpointError
from deltactl.evaluate.rows import Models, forecast_horizons
from deltactl.featurize.backbone import Backbone
from deltactl.train.checkpoint_files import find
from deltactl.train.checkpoints import load, network_hash
from deltactl.train.deltatok import TOKENIZER, DeltaTok
from deltactl.train.deltaworld import WORLD, DeltaWorld
from deltactl.train.dinoworld import DINOWORLD, DinoWorld
from deltactl.train.known_kinds import heads_for
from deltactl.train.rgb_head import RGB, RGBHead
from deltactl.train.trained import provenance_of


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


def check_uses(config: EvaluateConfig) -> None:
    """Raise ConfigError for what was named and cannot be used beside the rest; before the environment adds heads."""
    for_world = "goes with --world, whose futures it is about"
    refuse_unused(
        config,
        ("--world", config.tokenizer is not None, "needs --tokenizer, which makes and decodes its tokens"),
        ("--encoding", config.tokenizer is not None, "goes with --tokenizer"),
        ("--samples", config.world is not None, for_world),
        ("--seed", config.world is not None, for_world),
        ("--rgb-head", config.pictures > 0, "draws pictures, and --pictures is 0: it needs one at least"),
        ("--retry-failed", config.cache, "makes cached shards again, and --no-cache keeps none: it needs --cache"),
    )


@contextlib.contextmanager
def option(name: str) -> Iterator[None]:
    """Name the option in the error of a checkpoint that cannot be used."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"--{name}: {error}") from error


def load_networks(config: EvaluateConfig, dim: int, in_memory: Mapping[str, nn.Module] | None = None) -> Networks:
    """Return the networks of a resolved configuration, for features of width `dim`, on the CPU.

    `in_memory`: networks by the name of their option, taken as they are, where there is no checkpoint to read.

    CheckpointError where one cannot be read, is of another kind, or does not fit the features or the other networks.
    """
    there = {} if in_memory is None else in_memory
    with option("tokenizer"):
        tokenizer = there.get("tokenizer") or (load(config.tokenizer, TOKENIZER) if config.tokenizer else None)
    with option("world"):
        world = there.get("world") or (load(config.world, WORLD) if config.world else None)
    with option("dinoworld"):
        dinoworld = there.get("dinoworld") or (load(config.dinoworld, DINOWORLD) if config.dinoworld else None)
    assert isinstance(tokenizer, DeltaTok | None), "kinds and options have the same names"
    assert isinstance(world, DeltaWorld | None)
    assert isinstance(dinoworld, DinoWorld | None)
    with option("head"):
        head = load(config.head, *heads_for(config.dataset)) if config.head else None
    features = f"the backbone {config.backbone} makes features of width {dim}"
    if tokenizer is not None and tokenizer.config.width != dim:
        raise misfit("tokenizer", config.tokenizer, tokenizer.config.width, features)
    if dinoworld is not None and dinoworld.config.feature_dim != dim:
        raise misfit("dinoworld", config.dinoworld, dinoworld.config.feature_dim, features)
    if head is not None and head.config.dim != dim:
        raise misfit("head", config.head, head.config.dim, features)
    if world is not None and tokenizer is not None and world.config.token_dim != tokenizer.config.width:
        tokens = f"the tokenizer {config.tokenizer} makes tokens of width {tokenizer.config.width}"
        raise misfit("world", config.world, world.config.token_dim, tokens)
    return Networks(Models(tokenizer, world, dinoworld), head)


def load_rgb_head(place: str, backbone: Backbone) -> RGBHead:
    """Return the RGB head for pictures of this backbone's features, on the CPU; errors as `load_networks`."""
    with option("rgb-head"):
        head = load(place, RGB)
    if not backbone.can_be_undone:
        raise CheckpointError(
            f"--rgb-head {place} undoes the final norm of a backbone, and {backbone.name} ({backbone.family.title}) "
            "has none that is known; leave it out: pictures then show principal components"
        )
    if head.config.dim != backbone.dim:
        features = f"the backbone {backbone.name} makes features of width {backbone.dim}"
        raise misfit("rgb-head", place, head.config.dim, features)
    return head


def names_in_head(place: str | None) -> tuple[str, ...]:
    """Return the names of the classes by id that the training of a head wrote down; none where it did not."""
    names = provenance_of(find(place)).get("classes") if place else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def left_out(config: EvaluateConfig) -> list[str]:
    """Return a sentence for each part of the table that a resolved configuration leaves out, and what would add it."""
    notes = []
    if not config.head:
        variable = head_variable(config.dataset)
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
