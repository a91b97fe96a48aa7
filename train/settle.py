"""Fits the settings of a training to what is at hand: its data, and the checkpoints that it starts from or needs.

Takes settings and opened data. Returns settings in which size, width, frames, backbone and the network's sizes are
those of data and checkpoints unless they were set, and sentences about what was set otherwise though it can be done.
What cannot be done is a ConfigError that names the setting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from deltactl.artifacts import hash_told
from deltactl.configs.base import Config, ConfigT
from deltactl.configs.follow import (
    Difference,
    Fact,
    default_size,
    follow,
    is_set,
    refuse_unused,
    value_of,
    with_its_layers,
    with_setting,
)
from deltactl.configs.rgb import RGBConfig
from deltactl.configs.shared import AugmentationConfig, LiveAugmentationConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.known import read_facts
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.views import SETTINGS, SHOWN, Augmentation
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import counted
from deltactl.train.checkpoints.files import find
from deltactl.train.checkpoints.loading import read, read_kind
from deltactl.train.checkpoints.resume_point import FOLDER, LAST
from deltactl.train.checkpoints.trained import trained_of
from deltactl.train.data.inputs import frames_of
from deltactl.train.data.sets import TrainingSet, check_agreement
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.networks.deltaworld import WORLD
from deltactl.train.networks.dinoworld import DINOWORLD
from deltactl.train.networks.rgb_head import RGB

Settings = TypeVar("Settings", bound=TrainingConfig)

FLAGS = {
    **{"size": "--size", "backbone": "--backbone"},
    **{"crop_area": "--crop-area", "aspect": "--aspect", "flip": "--flip"},
    **{"network.tokens_per_frame": "--tokens-per-frame", "network.token_dim": "--token-dim"},
}
"""The flags of settings that have one; the others are set with `--set`."""


def settle_sets(config: Settings, sets: Sequence[TrainingSet], run: Location) -> tuple[Settings, list[str]]:
    """Return what `settle` returns, for all sets that a run trains from.

    Raises:
        ConfigError: two sets do not go together, or a setting contradicts one of them.
    """
    check_agreement(sets, same_frames=isinstance(config, WorldConfig))
    settled, notes = settle(config, sets[0].data, run)
    given = with_setting(config, "size", settled.size)
    for each in sets[1:]:
        notes += settle(given, each.data, run)[1]
    return settled, notes


def settle(config: Settings, data: ClipStore | ShardSet, run: Location) -> tuple[Settings, list[str]]:
    """Return the settings that fit, and sentences about those that were set unlike what is at hand.

    `run` is the run's folder.

    Raises:
        ConfigError: a setting contradicts the data, or the checkpoint to resume.
    """
    _check_uses(config)
    resumed, sizes = _resumed(config, run), list[Fact]()
    if resumed is not None:
        with contextlib.suppress(CheckpointError):  # which `begin` reports
            sizes = list(_of_network(config, resumed))
    drawn: list[Fact] = []
    if not isinstance(data, ShardSet) and isinstance(config, LiveAugmentationConfig):
        drawn = view_facts(config, data)
    config = obey(config, [*_of_data(config, data), *sizes, *drawn])
    for place in (resumed, config.init):
        _check_tokens(config, data, place)
    if resumed is None and config.init is not None:
        config, _ = follow(config, _of_network(config, config.init))  # what was set otherwise, `load_weights` refuses
    if isinstance(config, RGBConfig) and isinstance(data, FeatureStore):
        config, _ = follow(config, _usual_sizes(config, data))
    if not isinstance(data, ShardSet):
        check_backbone(config, data)
        name = data.provenance.get("backbone")
        return follow(config, [Fact("backbone", name, str(data.root))] if isinstance(name, str) else [])[0], []
    needed = config.tokenizer if isinstance(config, WorldConfig) else None
    facts = [fact for place in (resumed, needed, config.init) if place for fact in trained_of(place).facts(place)]
    stored = data.identity.size
    config, _ = follow(config, [*facts, Fact("size", default_size(config.size, stored), str(data.root))])
    if config.size.fits_within(stored):
        return config, []
    return config, [f"{data.root} holds frames for {stored} px: at a size of {config.size} px they are enlarged"]


def _check_uses(config: TrainingConfig) -> None:
    """Refuse, by a ConfigError, what was named and does nothing in this training."""
    refuse_unused(
        config,
        ("--set block_shards", config.shuffle == "blocks", "goes with --set shuffle=blocks"),
        ("--set evaluate_clips", bool(config.evaluate), "goes with --set evaluate=SETS"),
        ("--set kitti_split_file", "kitti" in config.evaluate, "goes with --set evaluate=[kitti]"),
    )
    if isinstance(config, WorldConfig):
        samples = config.network.kind == "deltaworld"
        refuse_unused(
            config,
            ("--tokenizer", samples or bool(config.evaluate), "goes with DeltaWorld: DINO-world needs none"),
            ("--set queries", samples, "goes with DeltaWorld: DINO-world has none"),
            ("--set search_precision", samples, "goes with DeltaWorld: DINO-world has none"),
        )


def kinds_of(config: TokenizerConfig | WorldConfig) -> tuple[str, ...]:
    """Return what this training can read, the first choice first."""
    if isinstance(config, TokenizerConfig) or config.network.kind == "dinoworld":
        return ("features", "shards")
    return ("tokens", "features", "shards")


def obey(config: ConfigT, facts: Sequence[Fact]) -> ConfigT:
    """Return the settings that follow facts.

    Raises:
        ConfigError: one was set to something else.
    """
    config, differences = follow(config, facts)
    for difference in differences:
        raise refusal(difference)
    return config


def refusal(difference: Difference) -> ConfigError:
    """Return the error of a setting that contradicts what cannot be otherwise."""
    fact = difference.fact
    flag = FLAGS.get(fact.setting)
    asked = f"{flag} {fact.value}" if flag else f"--set {fact.setting}={fact.value}"
    return ConfigError(f"{difference}; leave {fact.setting} out, add {asked}, or name another")


def view_facts(config: AugmentationConfig, data: ClipStore) -> list[Fact]:
    """Return what the random views of a store were drawn from.

    Raises:
        ConfigError: settings of random views were chosen, and the store has none.
    """
    crops = data.identity.values.get("crops")
    random, are = crops == "augment", SHOWN["whole" if crops == "whole" else "square"]
    needs = f"is of random crops, and those of {data.root} are {are}"
    refuse_unused(config, *((f"--{name.replace('_', '-')}", random, needs) for name in SETTINGS))
    if not random:
        return []
    there = Augmentation.of_identity(data.identity).settings
    return [Fact(name, value, str(data.root)) for name, value in there.items()]


def check_backbone(config: Config, data: ClipStore) -> None:
    """Refuse a backbone that was set and is not the one behind a store.

    Raises:
        ConfigError: their content hashes differ.
    """
    default, own = type(config).model_fields["backbone"].default, data.provenance.get("backbone")
    if not is_set(config, "backbone"):
        return
    name = with_its_layers(config, own) if isinstance(own, str) else value_of(config, "backbone")
    if name in (default, own):
        return
    there = data.identity.text("backbone")
    if (here := read_facts(name).content_hash) != there:
        named = hash_told(there, own) if isinstance(own, str) else f"one with the content hash {hash_told(there)}"
        raise ConfigError(
            f"--backbone is {hash_told(here, name)}, but the features of {data.root} are of {named}; leave --backbone "
            "out: a store brings its own"
        )


def _resumed(config: TrainingConfig, run: Location) -> str | None:
    """Return the checkpoint whose full state the run will go on from, if it is there."""
    if config.resume is None:
        return None
    place = run if config.resume == "auto" else Location.of(config.resume)
    for choice in (run / FOLDER / LAST, place / FOLDER / LAST, place):
        if choice.exists() and not (choice.is_local and choice.path.is_dir()):
            return str(choice)
    return None


def _of_data(config: TrainingConfig, data: ClipStore | ShardSet) -> Iterator[Fact]:
    """Yield what the data fix."""
    source = str(data.root)
    if isinstance(config, WorldConfig):
        yield Fact("frames", frames_of(data), f"a clip of {source}")
    if isinstance(data, ShardSet):
        return
    yield Fact("size", data.identity.size, source)
    if isinstance(config, TokenizerConfig):
        yield Fact("network.width", data.dim, source)


def _check_tokens(config: TrainingConfig, data: ClipStore | ShardSet, place: str | None) -> None:
    """Refuse to go on from a world model of other tokens than the data's, or than the tokenizer makes of them.

    What is wrong with the checkpoints themselves, others say.
    """
    if place is None or not isinstance(config, WorldConfig) or config.network.kind != "deltaworld":
        return
    with contextlib.suppress(CheckpointError):
        there = read(find(place))
        source, sizes = str(data.root), (1, 1)
        if isinstance(data, TokenStore):
            sizes = data.tokens_per_frame, data.dim
        elif config.tokenizer is not None:
            tokenizer = read_kind(find(config.tokenizer), TOKENIZER).config
            source, sizes = f"--tokenizer {config.tokenizer}", (tokenizer.tokens_per_frame, tokenizer.token_width)
        else:
            return
        if there.kind == WORLD and (wanted := (there.config.tokens_per_frame, there.config.token_dim)) != sizes:
            raise ConfigError(
                f"{place} is a world model of {tokens_text(*wanted)}, but {source} has {tokens_text(*sizes)}; name "
                "those that belong together"
            )


def tokens_text(count: int, width: int) -> str:
    """Return what the tokens of a frame are, in words."""
    return f"{counted(count, 'tokens')} a frame, {width} wide"


def _of_network(config: TrainingConfig, place: str | None) -> Iterator[Fact]:
    """Yield the sizes of the network that a checkpoint holds; nothing where it holds another kind."""
    if place is None or not isinstance(config, TokenizerConfig | WorldConfig | RGBConfig):
        return
    there = read(find(place))
    sizes = {name: value for name, value in asdict(there.config).items() if name in type(config.network).model_fields}
    if isinstance(config, TokenizerConfig) and config.network.token_dim is not None and there.kind == TOKENIZER:
        sizes["token_dim"] = there.config.token_width  # the number that was set may be the features' width
    if isinstance(config, WorldConfig):
        sizes["kind"] = {WORLD: "deltaworld", DINOWORLD: "dinoworld"}.get(there.kind)
    wanted = {TokenizerConfig: (TOKENIZER,), RGBConfig: (RGB,), WorldConfig: (WORLD, DINOWORLD)}[type(config)]
    if there.kind in wanted:
        if isinstance(config, RGBConfig) and is_set(config, "network.width") and config.network.width != sizes["width"]:
            sizes = {name: sizes[name] for name in sizes if name not in config.network.usual}  # of another width
        for name, value in sizes.items():
            yield Fact(f"network.{name}", value, place)


def _usual_sizes(config: RGBConfig, store: FeatureStore) -> Iterator[Fact]:
    """Yield the sizes of an RGB head that follow from its width and from the store."""
    for name, value in config.network.usual.items():
        yield Fact(f"network.{name}", value, f"a width of {config.network.width}")
    yield Fact("network.grid", max(store.grid), str(store.root))
