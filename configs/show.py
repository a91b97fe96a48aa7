"""Writes a configuration as YAML that says what each setting is, and that reads back as the same configuration."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from deltactl.configs.base import FOLLOWS, Config, inner_model
from deltactl.configs.yaml_text import write_value
from deltactl.redaction import redacted

WIDTH = 100
ABSENT: Any = object()
"""In place of the value of a setting that has none."""


def to_yaml(config: Config, stage: str, summary: str = "") -> str:
    """Return all settings with their docstrings as comments, without secrets; `load.resolve` reads the text back.

    Those that follow the data (`FOLLOWS`) and were not set are comments too, so that a file made of them still follows.
    """
    return values_to_yaml(config.model_dump(mode="json"), type(config), stage, summary, config)


def values_to_yaml(
    values: Mapping[str, Any], model: type[BaseModel], stage: str, summary: str = "", given: Any = None
) -> str:
    """Return the same for the values of a model; settings that are absent stand as comments, to be filled in."""
    head = [f"stage: {stage}", *([f"summary: {write_value(summary)}"] if summary else [])]
    absent = [name for name in model.model_fields if name not in values]
    shown = redacted(values)
    ordered = {name: shown.get(name, ABSENT) for name in model.model_fields} if absent else shown
    return "\n".join([*head, *_lines(ordered, model, "", given)]) + "\n"


def _lines(values: Mapping[str, Any], model: type[BaseModel] | None, indent: str, given: Any = None) -> Iterator[str]:
    """Yield the lines of some settings; `given` is their configuration, if they have one of their own."""
    fields = model.model_fields if model is not None else {}
    own = model.__annotations__ if model is not None else {}
    for name, value in sorted(values.items(), key=lambda item: item[0] not in own if own else False):
        if (field := fields.get(name)) is not None:
            yield ""
            doc = re.sub(r"\bNone\b", "null", " ".join((field.description or "").split()))
            for line in textwrap.wrap(doc, WIDTH - len(indent)):
                yield f"{indent}# {line}"
        if value is ABSENT:
            yield f"{indent}# No default: give it on the command line, or here.\n{indent}#{write_value(name)}:"
        elif isinstance(value, Mapping) and value:
            yield f"{indent}{write_value(name)}:"
            single = field is not None and get_origin(field.annotation) is not dict
            inner = inner_model(field.annotation) if field and single else None
            yield from _lines(value, inner, indent + "  ", None if inner is None else getattr(given, name, None))
        else:
            line = f"{write_value(name)}: {write_value(value)}"
            follows = field is not None and field.json_schema_extra == FOLLOWS
            set_here = not isinstance(given, BaseModel) or name in given.model_fields_set
            yield f"{indent}{line}" if set_here or not follows else f"{indent}# {line}"
