"""Puts the settings of one call together: preset, environment, flags, `--set`, each over the one before.

Takes a stage's model and what the user gave; returns the model with every value checked, or raises a ConfigError that
names the setting, where its value came from, and what was expected. A preset is a YAML file of `stage`, `summary`,
perhaps `extends` (another preset, or a file beside it), and settings.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltactl.configs.base import Config, ConfigT, leaves, merged, parse
from deltactl.configs.values import variables
from deltactl.configs.yaml_text import read_yaml, read_yaml_file, write_value
from deltactl.errors import ConfigError
from deltactl.reading import leads_to_file

PRESETS = Path(__file__).with_name("presets")
STAGES = {
    "ingest": "IngestConfig",
    "featurize": "FeaturizeConfig",
    "tokenizer": "TokenizerConfig",
    "tokenize": "TokenizeConfig",
    "world": "WorldConfig",
    "head": "HeadConfig",
    "rgb": "RGBConfig",
    "evaluate": "EvaluateConfig",
    "predict": "PredictConfig",
    "surprise": "SurpriseConfig",
    "recipe": "RecipeConfig",
}
"""Stage to its model, which is in the module of the stage's name beside this one; in the order data flows."""
COMMAND_STAGES = {"eval": "evaluate"}
"""The stages that are not named as their command."""
HEADER = ("stage", "summary", "extends")
DEEPEST_EXTENDS = 8


@dataclass(frozen=True)
class Preset:
    """A preset or settings file with what it extends merged in."""

    name: str
    """The preset's name, or the path of the file."""
    stage: str | None
    summary: str
    values: Mapping[str, Any]


# --- stages and presets ----------------------------------------------------------------------------------------------


def stage_model(stage: str) -> type[Config]:
    """Return the configuration model of a stage."""
    if stage not in STAGES:
        raise ConfigError(f"there is no stage {stage!r}; expected one of {', '.join(STAGES)}")
    model: type[Config] = getattr(importlib.import_module(f"deltactl.configs.{stage}"), STAGES[stage])
    assert issubclass(model, Config)
    return model


def preset_names() -> list[str]:
    """Return the names of the presets that come with the program, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, beside: Path | None = None, depth: int = 0) -> Preset:
    """Return the preset of this name, or the settings file at this path (relative ones also `beside` a folder)."""
    if depth > DEEPEST_EXTENDS:
        raise ConfigError(f"the preset {name!r} extends itself, or {DEEPEST_EXTENDS} others in a row")
    path = _find(name, beside)
    values = read_yaml_file(path)
    header = {key: values.pop(key, None) for key in HEADER}
    for key, value in header.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{key!r} of {name} is {value!r}; expected text")
    stage, summary = header["stage"], header["summary"]
    if header["extends"] is not None:
        base = load_preset(header["extends"], path.parent, depth + 1)
        if stage is not None and base.stage != stage:
            raise ConfigError(f"{name} is for {stage!r} but extends {base.name}, which is for {base.stage!r}")
        values = merged(base.values, values)
        stage, summary = base.stage, summary or base.summary
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"the stage of {name} is {stage!r}; expected one of {', '.join(STAGES)}")
    return Preset(name, stage, summary or "", values)


def _find(name: str, beside: Path | None) -> Path:
    if name in preset_names():
        return PRESETS / f"{name}.yaml"
    file = Path(os.path.expanduser(name))  # noqa: PTH111 (keeps `~nobody` as it is)
    if beside is not None and leads_to_file(beside / file):
        return beside / file
    if file.suffix in (".yaml", ".yml") or leads_to_file(file):
        return file
    near = difflib.get_close_matches(name, preset_names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`deltactl config list` shows them"
    raise ConfigError(f"there is no preset or file {name!r}; {hint}")


# --- layers ----------------------------------------------------------------------------------------------------------


def resolve(
    model: type[ConfigT],
    *,
    config: str | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> ConfigT:
    """Return the settings of one call.

    `config` is a preset's name or a file, over which go the environment's variables (`values.Variable`); `flags` maps
    dotted settings to the values of their flags, None if not given (the flag of `trainer.batch_size` is
    `--batch-size`); `assignments` are the KEY=VALUE of `--set`. Later ones win; a flag and a `--set` that disagree are
    refused, and so is a preset of another stage.
    """
    return parse(model, *layered(model, config=config, flags=flags, assignments=assignments))


def layered(
    model: type[Config],
    *,
    config: str | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    environment: bool = True,
) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the values that `resolve` checks, as given and merged, and where each dotted key came from.

    `environment` false leaves the environment out, for what is to be read elsewhere.
    """
    values: Mapping[str, Any] = {}
    origins: dict[str, str] = {}
    if config is not None:
        preset = load_preset(config)
        stage = model.__module__.rpartition(".")[2]
        if preset.stage is not None and preset.stage != stage:
            raise ConfigError(f"--config {config} is for {preset.stage!r}; expected a preset or file for {stage!r}")
        values = preset.values
        origins.update({key: f"--config {config}" for key, _ in leaves(values)})
    given = _from_command_line(flags or {}, assignments)
    # Which variable counts may hang on a setting, whose strongest value decides.
    decided = values
    for key, value, _ in given:
        decided = merged(decided, _nested(key, value))
    names = variables(model, decided) if environment else {}
    for key, value, origin in [*((key, os.environ[name], name) for key, name in names.items()), *given]:
        layer = _nested(key, value)
        values = merged(values, layer)
        origins.update({leaf: origin for leaf, _ in leaves(layer)})
    return values, origins


Layer = tuple[str, Any, str]
"""A dotted key, its value, and where that came from."""


def _from_command_line(flags: Mapping[str, Any], assignments: Sequence[str]) -> list[Layer]:
    """Return the layers of flags and of `--set`; those that disagree about a setting are refused."""
    layers: list[Layer] = []
    for key, value in flags.items():
        if value is not None:
            layers.append((key, value, "--" + key.rpartition(".")[2].replace("_", "-")))
    layers += [(*_assignment(text), "--set") for text in assignments]
    for index, (key, value, origin) in enumerate(layers):
        for other, other_value, other_origin in layers[:index]:
            overlap = key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")
            if overlap and (key, _plain(value)) != (other, _plain(other_value)):
                first, second = _as_given(other, other_value, other_origin), _as_given(key, value, origin)
                raise ConfigError(f"{first} and {second} disagree; give one of them")
    return layers


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"--set {text!r} is not KEY=VALUE, such as trainer.devices=4")
    return key, read_yaml(value, f"the value of --set {key}")


def _as_given(key: str, value: Any, origin: str) -> str:
    return f"--set {key}={_plain(value)}" if origin == "--set" else f"{origin} {_plain(value)}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def assignments_of(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return settings, perhaps nested, as KEY=VALUE with dotted keys."""
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += assignments_of(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={write_value(value)}")
    return found
