"""Settings that follow the data: what was not set is taken from what is at hand, what was set is compared with it.

A store, shards or a checkpoint know the size of their frames, the width of their features, the backbone. A default is
no more than a guess beside that, so a fact takes its place; a value that a preset, the environment, a flag, `--set` or
a caller gave stays, and where it differs from the fact, that is a `Difference` for the caller to refuse or to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from deltactl.configs.backbone_name import BackboneName
from deltactl.configs.base import Config, ConfigT
from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ConfigError


@dataclass(frozen=True)
class Fact:
    """What something at hand says a setting must be."""

    setting: str
    """Dotted name, such as `network.width`."""
    value: Any
    source: str
    """What says so, such as the place of a store."""


@dataclass(frozen=True)
class Difference:
    """A setting that was set to something else than a fact."""

    setting: str
    set_to: Any
    fact: Fact

    def __str__(self) -> str:
        return f"{self.setting} is set to {self.set_to}, but {self.fact.source} has {self.fact.value}"


def is_set(config: Config, setting: str) -> bool:
    """Whether a setting, by its dotted name, was given rather than left at its default."""
    outer, _, inner = setting.partition(".")
    if outer not in config.model_fields_set:
        return False
    return not inner or is_set(getattr(config, outer), inner)


def is_chosen(config: Config, setting: str) -> bool:
    """Whether a top-level setting was given, as something else than its default."""
    return is_set(config, setting) and getattr(config, setting) != type(config).model_fields[setting].default


def refuse_unused(config: Config, *rules: tuple[str, bool, str]) -> None:
    """Raise ConfigError for a setting that was chosen and does nothing beside the others.

    A rule is a top-level setting as it is given (`--world`, or `--set queries`), whether it has an effect here, and
    what it needs, such as `goes with --tokenizer`.
    """
    for option, has_effect, needs in rules:
        setting = option.removeprefix("--set ").removeprefix("--").replace("-", "_")
        if not has_effect and is_chosen(config, setting):
            value = getattr(config, setting)
            shown = "" if value is True else f"={value}" if option.startswith("--set ") else f" {value}"
            raise ConfigError(f"{option}{shown} has no effect: it {needs}; leave it out, or give it what it needs")


def value_of(config: Config, setting: str) -> Any:
    """Return the value of a setting by its dotted name."""
    value: Any = config
    for name in setting.split("."):
        value = getattr(value, name)
    return value


def with_setting(config: ConfigT, setting: str, value: Any) -> ConfigT:
    """Return the configuration with another value of one setting."""
    outer, _, inner = setting.partition(".")
    return config.model_copy(update={outer: with_setting(getattr(config, outer), inner, value) if inner else value})


def default_size(default: FrameSize, stored: FrameSize) -> FrameSize:
    """Return the size of live frames where none was set: the default one, or what frames are stored for.

    The latter where the default's squares are larger, or where it is no square: whoever stored other shapes wants them.
    """
    return default if stored.square and default.fits_within(stored) else stored


def follow(config: ConfigT, facts: Iterable[Fact]) -> tuple[ConfigT, list[Difference]]:
    """Return the configuration with every fact about a setting that was not set, and where set ones differ from facts.

    Of several facts about one setting the first counts.
    """
    differences = []
    for setting, fact in {each.setting: each for each in reversed(list(facts))}.items():
        if setting == "backbone" and is_set(config, setting):
            config = with_setting(config, setting, with_its_layers(config, fact.value))
        if not is_set(config, setting):
            config = with_setting(config, setting, fact.value)
        elif value_of(config, setting) != fact.value:
            differences.append(Difference(setting, value_of(config, setting), fact))
    return config, differences


def with_its_layers(config: Config, known: str) -> str:
    """Return the backbone that was set; where layers or norm alone were, those of the one that is known at hand.

    Raises:
        ConfigError: other layers are known.
    """
    said: str = value_of(config, "backbone")
    name = BackboneName.parse(said)
    if not name.choice or name.family or name.place != type(config).model_fields["backbone"].default:
        return said
    try:
        return str(BackboneName.parse(known).choosing(name.choice.layers, None if name.choice.norm else False))
    except ValueError as error:
        raise ConfigError(str(error)) from error
