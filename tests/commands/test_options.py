"""Every option of every command is as it was: its names, the values it takes, its default; `options.json` has them.

After a change that is meant: python tests/commands/test_options.py > tests/commands/options.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from deltactl.cli import program
from deltactl.configs.base import Config
from deltactl.configs.load import stage_model

RECORD = Path(__file__).with_name("options.json")
STAGES = {
    "ingest": "ingest",
    "featurize": "featurize",
    "tokenize": "tokenize",
    "train tokenizer": "tokenizer",
    "train world": "world",
    "train head": "head",
    "train rgb": "rgb",
    "eval": "evaluate",
    "predict": "predict",
    "surprise": "surprise",
}
"""Command to the stage whose configuration it takes; the others' defaults are click's own."""
RENAMED = {("train head", "store"): "data"}
"""Parameter to its setting, where they differ."""
PROBES = (
    *("-1", "0", "1", "2", "7", "16", "101", "1000", "1001", "0.0", "0.5", "1.5", "nan", "x", ""),
    *("auto", "cpu", "cuda", "cuda:1", "cuda:x", "1,3", "1:3", "1/3", "3/1", "256=4,512=1"),
)
"""Texts that are tried as the value of every option."""


def commands(command: click.Command = program, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield the words and the object of every command."""
    yield " ".join(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))


def model_of(command: str) -> type[Config] | None:
    """Return the configuration that a command takes, if it takes one."""
    return stage_model(STAGES[command]) if command in STAGES else None


@cache
def record() -> dict[str, dict[str, Any]]:
    """Return what there is: command to option to what it is."""
    return {
        path: {" ".join([*each.opts, *each.secondary_opts]): describe(path, command, each) for each in command.params}
        for path, command in commands()
    }


def describe(path: str, command: click.Command, parameter: click.Parameter) -> dict[str, Any]:
    """Return what a parameter is, values in the form of JSON."""
    found: dict[str, Any] = {
        "kind": parameter.param_type_name,
        "required": parameter.required,
        "nargs": parameter.nargs,
        "repeatable": parameter.multiple,
        "variable": parameter.envvar,
        "default": default_of(path, parameter),
    }
    if isinstance(parameter, click.Option):
        found["flag"] = parameter.is_flag
        if not parameter.is_flag:
            found["takes"] = taken(command, parameter)
    choices = getattr(parameter.type, "choices", None)
    return found if choices is None else {**found, "choices": list(choices)}


def default_of(path: str, parameter: click.Parameter) -> Any:
    """Return the value of a setting that nothing sets; else what click says."""
    model, name = model_of(path), RENAMED.get((path, parameter.name or ""), parameter.name or "")
    if model is None or name not in model.model_fields:
        default = parameter.default
        return default if default is None or isinstance(default, bool | int | float | str) else None
    field = model.model_fields[name]
    return "(none)" if field.is_required() else json.loads(json.dumps(field.default, default=lambda size: size.value))


def taken(command: click.Command, option: click.Option) -> Any:
    """Return the texts, of those tried, that the option takes, and what it makes of them."""
    results = {}
    for text in PROBES:
        context = click.Context(command)
        try:
            value = option.process_value(context, (text,) if option.multiple else text)
        except click.UsageError:
            continue
        results[text] = value
    if all(str(value) == text or value == (text,) for text, value in results.items()):
        return "any text" if len(results) == len(PROBES) else list(results)
    return json.loads(json.dumps({text: plain(value) for text, value in results.items()}, default=str))


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: NaN as text, and a mapping's keys, such as sizes, likewise."""
    if isinstance(value, dict):
        return {key if key is None else str(key): each for key, each in value.items()}
    return str(value) if value != value else value


def written(found: dict[str, dict[str, Any]]) -> str:
    """Return a record as the text of its file, one option a line."""
    blocks = []
    for command, options in found.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in sorted(options.items())]
        blocks.append(f" {json.dumps(command)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


@pytest.mark.parametrize("command", json.loads(RECORD.read_text()))
def test_the_options_of_a_command_are_as_they_were(command: str) -> None:
    recorded, now = json.loads(RECORD.read_text())[command], record()[command]
    for option in {**recorded, **now}:
        assert now.get(option) == recorded.get(option), f"deltactl {command} {option}"


def test_the_record_has_every_command_and_is_written_as_the_program_writes_it() -> None:
    assert RECORD.read_text() == written(record())


if __name__ == "__main__":
    sys.stdout.write(written(record()))
