"""Reads and writes the YAML of presets: the plain part of YAML 1.2, and nothing that can surprise.

Takes text of at most 256 kB; returns None, booleans, numbers, strings, lists and mappings with text keys. `1e-3` is a
number, `16:32` and `no` are text (PyYAML reads YAML 1.1, where they are text, 992 and false). Tags, anchors, aliases
and repeated keys are refused, so a file can neither run code nor grow in memory.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from yaml import SafeLoader, YAMLError
from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent, Event, NodeEvent
from yaml.nodes import MappingNode, ScalarNode

from deltactl.errors import ConfigError
from deltactl.reading import SETTINGS, read_file, reason_of

CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
}
"""YAML 1.2's core types but text: how their values look, and the letters they begin with. (No .inf and .nan.)"""
PLAIN = re.compile(r"[A-Za-z0-9_./+][A-Za-z0-9_./+:~-]*(?: [A-Za-z0-9_./+~-]+)*")
"""Text that is written without quotes, unless it looks like a core type or ends like a key."""


def read_yaml(text: str, name: str) -> Any:
    """Return the value of one YAML document.

    Raises:
        ConfigError: it is not acceptable; the message calls it `name`.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ConfigError(f"{name}{place} is not readable YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is not readable YAML: it is nested too deeply") from error
    except (YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} is not readable YAML: {str(error).splitlines()[0]}") from error


def read_yaml_file(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        content = read_file(path, SETTINGS)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is not a file; expected a preset's name or a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path} {reason_of(error)}; expected a preset's name or a YAML file") from error
    return read_yaml_mapping(content, str(path))


def read_yaml_mapping(content: bytes, path: str) -> dict[str, Any]:
    """Return the mapping that the bytes of a YAML file hold.

    Raises:
        ConfigError: they hold something else; the message names the file.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} cannot be read") from error
    value = read_yaml(text, path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; expected settings, one `name: value` a line")
    return value


def write_value(value: Any) -> str:
    """Return a JSON-like value as one line of YAML, such that `read_yaml` gives it back: JSON, or text as it is."""
    typed = any(re.fullmatch(pattern, value) for pattern, _ in CORE.values()) if isinstance(value, str) else True
    if not typed and PLAIN.fullmatch(value) and not value.endswith(":"):
        return str(value)
    # JSON in ASCII writes some letters as two surrogates, which YAML would read as two letters.
    text = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(each if each.isprintable() else _escaped(ord(each)) for each in text)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Loader(SafeLoader):
    """PyYAML's loader for the core types only."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (those of YAML 1.1 are not inherited)

    def get_event(self) -> Event:
        """Hand the next event to the composer unless it is an anchor, an alias or a tag."""
        event: Event = super().get_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor is not None):
            raise MarkedYAMLError(problem="anchors and aliases are not accepted", problem_mark=mark)
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise MarkedYAMLError(problem=f"the tag {tag!r} is not accepted", problem_mark=mark)
        return event

    def integer(self, node: ScalarNode) -> int:
        """Construct an integer; 010 is ten."""
        return int(node.value)

    def number(self, node: ScalarNode) -> float:
        """Construct a float; one beyond the range is refused."""
        if math.isinf(value := float(node.value)):
            raise MarkedYAMLError(problem=f"{node.value} is too large", problem_mark=node.start_mark)
        return value

    def text(self, node: ScalarNode) -> str:
        """Construct text; half a character (a lone surrogate) is refused."""
        if re.search("[\ud800-\udfff]", node.value):
            raise MarkedYAMLError(problem="a lone surrogate is not text", problem_mark=node.start_mark)
        return str(node.value)

    def mapping(self, node: MappingNode) -> dict[str, Any]:
        """Construct a mapping whose keys are text and appear once."""
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, ScalarNode) or not key:
                raise MarkedYAMLError(problem="a key is not a word", problem_mark=key_node.start_mark)
            if key in result:
                raise MarkedYAMLError(problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=True)
        return result


for _name, (_pattern, _first) in CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
for _name, _method in (
    ("int", _Loader.integer),
    ("float", _Loader.number),
    ("str", _Loader.text),
    ("map", _Loader.mapping),
):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _method)
