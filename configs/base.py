"""The base of every configuration model, and errors that name the setting, its value and what was expected.

Models are frozen pydantic models; unknown keys are refused. Every field has a docstring (below the field) that says
what it is and in which unit; `deltactl config show` prints them, and commands show them as the help of options. A field
that a model states anew, for another default, keeps the docstring it had. A model made in Python raises pydantic's
ValidationError, a ValueError; `parse` reads values that came from outside, strictly, and raises ConfigError.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from deltactl.configs.values import variables
from deltactl.errors import ConfigError

LONGEST_VALUE = 60
"""Characters of a value that an error shows."""
FOLLOWS: dict[str, JsonValue] = {"follows": True}
"""What a field has as `json_schema_extra` whose default gives way to the data or checkpoint at hand (`follow`)."""
_UNKNOWN = "extra_forbidden"
_SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python makes of a file name's bytes that are not UTF-8."""


class Config(BaseModel):
    """A frozen configuration; see the module docstring."""

    # Validators are built when first used: a help page needs the fields only.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give fields that are stated anew the docstrings that they had."""
        super().__pydantic_init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            for name, above in base.model_fields.items() if issubclass(base, Config) else ():
                cls.model_fields[name].description = cls.model_fields[name].description or above.description

    @classmethod
    def required(cls) -> list[str]:
        """Return the settings that have no default."""
        return [name for name, field in cls.model_fields.items() if field.is_required()]


ConfigT = TypeVar("ConfigT", bound=Config)


def with_environment(config: ConfigT) -> ConfigT:
    """Return a configuration with what the environment names in place of settings that were left at None."""
    found = variables(type(config), dict(config))
    left = {name for name in found if getattr(config, name) is None and name not in config.model_fields_set}
    return config.model_copy(update={name: os.environ[found[name]] for name in left})


def parse(model: type[ConfigT], values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> ConfigT:
    """Return the model of JSON-like values; text is not taken for a number, nor a number for a boolean.

    `origins` maps dotted keys to where their value came from (`--set`, a file), for the error.

    Raises:
        ConfigError: a value is missing, unknown, of another type or out of range.
    """
    try:
        return _validated(model, values, origins)
    except ValidationError as error:
        raise ConfigError(explain(error, model, values, origins)) from error


def complete_values(
    model: type[Config], values: Mapping[str, Any], origins: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return all settings as JSON-like values, defaults in place of what is not given; those without one stay absent.

    Raises:
        ConfigError: as `parse`, but not for what is missing.
    """
    try:
        return _validated(model, values, origins).model_dump(mode="json")
    except ValidationError as error:
        absent = {name for name in model.required() if name not in values}
        if any(detail["type"] != "missing" or detail["loc"][0] not in absent for detail in error.errors()):
            raise ConfigError(explain(error, model, values, origins, absent)) from error
    defaults = model.model_construct().model_dump(mode="json", warnings=False)
    given = {name: value for name, value in values.items() if name in model.model_fields}
    return {name: merged(defaults, given)[name] for name in model.model_fields if name in {*defaults, *given}}


def _validated(model: type[ConfigT], values: Mapping[str, Any], origins: Mapping[str, str] | None) -> ConfigT:
    for name, value in leaves(values):
        if isinstance(value, str) and _SURROGATES.search(value):
            raise ConfigError(
                f"the setting {name!r} is {_shown(value)}{_origin(name, origins or {})}, a name that is not UTF-8; "
                "rename it, or give a link to it"
            )
    # JSON in place of Python objects: strict there still lets lists be tuples and text be paths.
    return model.model_validate_json(json.dumps(values, default=str), strict=True)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in it; mappings are merged key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each dotted key and its value, going into mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def explain(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    values: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
    leave_out: Collection[str] = (),
) -> str:
    """Return one line for a pydantic error: each setting by its dotted name, its value, and what was expected.

    Settings in `leave_out` that are missing are passed over.
    """
    phrases: dict[str, str] = {}
    expected: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        location, missing = detail["loc"], detail["type"] == "missing"
        keys = list(map(str, location)) if values is None else _keys(location, values, missing)
        name = ".".join(keys)
        origin = _origin(name, origins or {})
        if detail["type"] == _UNKNOWN:
            phrases[name] = f"unknown setting {name!r}{origin}; {nearest(name, model)}"
            continue
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if not keys:
            phrases.setdefault(message, message)
        elif missing:
            if name not in leave_out:
                phrases[name] = f"the setting {name!r} is missing"
        elif message.startswith("Input should be "):
            wanted = (
                message.removeprefix("Input should be ")
                .replace("a valid array", "a list")
                .replace("a valid integer", "an integer")
            )
            wanted = f"a value {wanted}" if wanted.startswith(("greater", "less")) else wanted
            expected.setdefault(name, []).append(wanted.replace("a valid ", "a "))
            phrases[name] = f"the setting {name!r} is {_shown(detail['input'])}{origin}; expected " + " or ".join(
                dict.fromkeys(expected[name])
            )
        else:
            phrases[name] = f"the setting {name!r} is {_shown(detail['input'])}{origin}; {message}"
    return "; ".join(phrases.values())


def nearest(name: str, model: type[BaseModel] | None) -> str:
    """Return the hint for an unknown dotted name: the nearest known one, or the known ones beside it."""
    known = [path for path, _ in settings(model)] if model is not None else []
    parent, _, last = name.rpartition(".")
    beside = [path for path in known if path.rpartition(".")[0] == parent]
    for candidates in (beside, known):
        by_last = {path.rpartition(".")[2]: path for path in reversed(candidates)}
        if near := difflib.get_close_matches(last, by_last, n=1):
            return f"did you mean {by_last[near[0]]!r}?"
    return "known settings: " + ", ".join(sorted(beside or known))


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the docstring of each setting of a model, those of models inside it after it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", " ".join((field.description or "").split())
        inner, named = inner_model(field.annotation), get_origin(field.annotation) is dict
        if inner is not None:
            yield from settings(inner, f"{prefix}{name}.NAME." if named else f"{prefix}{name}.")


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model in a field's type (`Inner`, `Inner | None`, `dict[str, Inner]`), if any."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _keys(location: tuple[int | str, ...], values: Any, missing: bool) -> list[str]:
    """Return the keys of an error's location, without the names of the union's members that pydantic adds."""
    keys: list[str] = []
    for part in location:
        if isinstance(values, Mapping | list):
            with contextlib.suppress(KeyError, IndexError, TypeError):
                values = values[part]  # type: ignore[index]
                keys.append(str(part))
    return [*keys, str(location[-1])] if missing else keys


def _origin(name: str, origins: Mapping[str, str]) -> str:
    for key, origin in origins.items():
        if key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."):
            return f" (from {origin})"
    return ""


def _shown(value: Any) -> str:
    from deltactl.configs.yaml_text import write_value  # which needs PyYAML, for an error only

    text = write_value(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
