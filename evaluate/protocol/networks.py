"""The networks of an evaluation: their checkpoints read, checked against each other and hashed; loaded when needed.

Everything that does not fit is found here, before any work begins: a head with other classes, a tokenizer for features
of another width, a world model for other tokens. What is not given is left out, and `left_out` says so.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.follow import refuse_unused
from deltactl.configs.names import head_variable
from deltactl.datasets.known import labelled_set
from deltactl.errors import CheckpointError
from deltactl.evaluate.protocol.rows import Models, forecast_horizons
from deltactl.featurize.backbones.family import BackboneFacts, Family
from deltactl.progress import counted
from deltactl.train.checkpoints.cost import cost_of
from deltactl.train.checkpoints.files import find
from deltactl.train.checkpoints.loading import network_hash, read_kind
from deltactl.train.checkpoints.trained import provenance_of
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DINOWORLD, DinoWorld
from deltactl.train.networks.kinds import Kind
from deltactl.train.networks.known_kinds import heads_for, kind_of
from deltactl.train.networks.rgb_head import RGB

OPTIONS = ("tokenizer", "world", "dinoworld", "head")
"""The networks that the numbers come from, by the names of their options."""


@dataclass(frozen=True)
class GivenNetwork:
    """What a network is, before it is loaded."""

    kind: Kind[Any]
    config: Any
    content_hash: str
    """In hexadecimal; see `Checkpoint.content_hash`."""
    load: Callable[[], nn.Module]
    """Returns the network in eval mode and float32, from a checkpoint on the CPU. Raises CheckpointError if its
    values are not finite."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """What its checkpoint says that training it took; nothing of a network in memory."""

    @classmethod
    def read(cls, option: str, place: str, *kinds: Kind[Any]) -> GivenNetwork:
        """Read the checkpoint that an option names, of one of these kinds.

        Raises:
            CheckpointError: it cannot be read, or is of another kind; the message names the option.
            HubError: the Hub does not hand it out.
        """
        with naming(option):
            checkpoint = read_kind(place, *kinds)

        def load() -> nn.Module:
            with naming(option):
                return checkpoint.load()

        cost = cost_of(checkpoint.provenance)
        return cls(checkpoint.kind, checkpoint.config, checkpoint.content_hash, load, cost)

    @classmethod
    def in_memory(cls, network: nn.Module) -> GivenNetwork:
        """Return what a network in memory is."""
        return cls(kind_of(network), network.config, network_hash(network), lambda: network)


Given = Mapping[str, GivenNetwork]
"""Networks by the name of their option; those that are left out are absent."""


@dataclass(frozen=True)
class Networks:
    """The networks of an evaluation, loaded."""

    models: Models
    head: nn.Module | None

    @classmethod
    def load(cls, given: Given) -> Networks:
        """Load what was given; see `GivenNetwork.load`."""
        loaded = {name: network.load() for name, network in given.items()}
        tokenizer, world, dinoworld = (loaded.get(name) for name in ("tokenizer", "world", "dinoworld"))
        assert isinstance(tokenizer, DeltaTok | None), "kinds and options have the same names"
        assert isinstance(world, DeltaWorld | None)
        assert isinstance(dinoworld, DinoWorld | None)
        return cls(Models(tokenizer, world, dinoworld), loaded.get("head"))

    def to(self, device: torch.device) -> None:
        """Move them to a device."""
        for network in (self.models.tokenizer, self.models.world, self.models.dinoworld, self.head):
            if network is not None:
                network.to(device)


def check_uses(config: EvaluateConfig) -> None:
    """Raise ConfigError for what was named and cannot be used beside the rest; before the environment adds heads."""
    for_world = "goes with --world, whose futures it is about"
    refuse_unused(
        config,
        ("--world", config.tokenizer is not None, "needs --tokenizer, which makes and decodes its tokens"),
        ("--encoding", config.tokenizer is not None, "goes with --tokenizer"),
        ("--samples", config.world is not None, for_world),
        ("--seed", config.world is not None or config.seeds is not None, for_world),
        ("--seeds", config.world is not None, for_world),
        (
            "--per-class",
            not config.per_class or labelled_set(config.dataset).classes > 0,
            f"prints a table of classes, and {config.dataset} has none",
        ),
        ("--rgb-head", config.pictures > 0, "draws pictures, and --pictures is 0: it needs one at least"),
        ("--retry-failed", config.cache, "makes cached shards again, and --no-cache keeps none: it needs --cache"),
    )


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Name the option in the error of a checkpoint that cannot be used."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"--{option}: {error}") from error


def read_networks(config: EvaluateConfig, dim: int, in_memory: Mapping[str, nn.Module] | None = None) -> Given:
    """Return the networks of a resolved configuration, for features of width `dim`.

    `in_memory`: networks by the name of their option, taken as they are, where there is no checkpoint to read.

    Raises:
        CheckpointError: one cannot be read, is of another kind, or does not fit the features or the other networks.
        HubError: the Hub does not hand one out.
    """
    kinds: dict[str, tuple[Kind[Any], ...]] = {
        "tokenizer": (TOKENIZER,),
        "world": (WORLD,),
        "dinoworld": (DINOWORLD,),
    }
    there = {} if in_memory is None else in_memory
    if config.head and "head" not in there:
        kinds["head"] = heads_for(config.dataset)
    given: dict[str, GivenNetwork] = {}
    for name in OPTIONS:
        place = getattr(config, name)
        if name in there:
            given[name] = GivenNetwork.in_memory(there[name])
        elif place:
            given[name] = GivenNetwork.read(name, place, *kinds[name])
    features = f"the backbone {config.backbone} makes features of width {dim}"
    for name, width in (("tokenizer", "width"), ("dinoworld", "feature_dim"), ("head", "dim")):
        if name in given:
            check_width(name, getattr(config, name), getattr(given[name].config, width), dim, features)
    if "world" in given and "tokenizer" in given:
        check_tokens(config.world, given["world"].config, config.tokenizer, given["tokenizer"].config)
    return given


def read_rgb_head(place: str, backbone: str, family: Family, facts: BackboneFacts) -> GivenNetwork:
    """Return the RGB head for pictures of the features of the backbone of this name; raises as `read_networks`.

    Heads undo the final norm of a backbone. Where it has none that is known, a head that was trained behind it undid
    nothing; any other one is refused.
    """
    head = GivenNetwork.read("rgb-head", place, RGB)
    made = f"the backbone {backbone} makes features of width {facts.dim}"
    check_width("rgb-head", place, head.config.dim, facts.dim, made)
    if head.config.patch_size != facts.patch_size:
        raise CheckpointError(
            f"--rgb-head {place} makes patches of {head.config.patch_size} pixels, but those of the backbone "
            f"{backbone} have {facts.patch_size}; name the one that belongs to it"
        )
    if not facts.can_be_undone and facts.content_hash != _backbone_of(provenance_of(find(place))):
        raise CheckpointError(
            f"--rgb-head {place} undoes the final norm of a backbone's last layer, and {backbone} ({family.title}) "
            "has none that is known; leave it out: pictures then show principal components. Or train one for it: "
            "deltactl train rgb FEATURES"
        )
    return head


def _backbone_of(provenance: Mapping[str, Any]) -> object:
    """Return the content hash of the backbone behind which a network was trained; None where its file does not say."""
    frozen = provenance.get("frozen")
    return frozen.get("backbone") if isinstance(frozen, Mapping) else None


def check_width(option: str, place: str | None, width: int, expected: int, found: str) -> None:
    """Raise CheckpointError if a checkpoint is for another width than what it is given, which `found` names."""
    if width != expected:
        raise CheckpointError(f"--{option} {place} is for width {width}, but {found}; name the one that belongs to it")


def check_tokens(world: str | None, model: DeltaWorldConfig, tokenizer: str | None, made_by: DeltaTokConfig) -> None:
    """Raise CheckpointError if a world model is for other tokens than a tokenizer makes: another number, or width."""
    count, width = made_by.tokens_per_frame, made_by.token_width
    if model.tokens_per_frame != count:
        raise CheckpointError(
            f"--world {world} is for {counted(model.tokens_per_frame, 'tokens')} a frame, but the tokenizer "
            f"{tokenizer} makes {count}; name the one that belongs to it"
        )
    check_width("world", world, model.token_dim, width, f"the tokenizer {tokenizer} makes tokens of width {width}")


def names_in_head(place: str | None) -> tuple[str, ...]:
    """Return the names of the classes by id that the training of a head wrote down; none where it did not."""
    names = provenance_of(find(place)).get("classes") if place else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def other_classes(config: EvaluateConfig) -> list[str]:
    """Return that a head was trained for other classes than those of the set, where the names of both are known."""
    trained, own = names_in_head(config.head), labelled_set(config.dataset).class_names(None)
    if not trained or not own or trained == own:
        return []
    pairs = itertools.zip_longest(trained, own, fillvalue="none")
    number, (theirs, ours) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
    return [
        f"--head {config.head} was trained for other classes: class {number} was {theirs!r}, and is {ours!r} in "
        f"{labelled_set(config.dataset).title}; values of the metric mean nothing where the order differs"
    ]


def left_out(config: EvaluateConfig) -> list[str]:
    """Return a sentence for each part of the table that a resolved configuration leaves out, and what would add it."""
    notes = []
    if not config.head and labelled_set(config.dataset).task != "none":
        variable = head_variable(config.dataset)
        none = "no --head" + (f" (nor {variable})" if variable else "")
        notes.append(f"{none}: there are feature losses, but no values of the metric")
    if not config.tokenizer:
        notes.append("no --tokenizer: the rows of DeltaTok are left out")
    if not config.world or not config.tokenizer:
        missing = " and ".join(f"--{name}" for name in ("tokenizer", "world") if not getattr(config, name))
        notes.append(f"no {missing}: the rows of DeltaWorld are left out")
    if not config.dinoworld:
        notes.append("no --dinoworld: the rows of DINO-world are left out")
    if far := [horizon for horizon in config.horizons if horizon not in forecast_horizons(config)]:
        notes.append(
            f"horizon {', '.join(map(str, far))} after {config.context} frames is beyond the {config.frames} frames of "
            "a clip: copy last, DeltaWorld and DINO-world are left out there; "
            f"--frames {far[-1] + config.context} has them"
        )
    if config.world and config.tokenizer and config.extras and config.samples == 1:
        notes.append("one sample has no spread: the noise null and the diversity are left out")
    return notes
