"""Reads and writes the YAML of presets: the plain part of YAML 1.2, and nothing that can surprise.

In comes text of at most 256 kB; out come None, booleans, numbers, strings, lists and mappings with text keys. `1e-3`
is a number, `16:32` and `no` are text (PyYAML reads YAML 1.1, where they are text, 992 and false). Tags, anchors,
aliases and repeated keys are refused, so a file can neither run code nor grow in memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from yaml import YAMLError
from yaml.composer import Composer
from yaml.constructor import BaseConstructor
from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent, Event, NodeEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from deltactl.errors import ConfigError
from deltactl.reading import SETTINGS, read_file, reason_of

_TAG = "tag:yaml.org,2002:"
_PLAIN = re.compile(r"[A-Za-z0-9_./+~-][A-Za-z0-9_./+:~-]*(?: [A-Za-z0-9_./+~-]+)*")


def read_yaml(text: str, name: str) -> Any:
    """Return the value of one YAML document; ConfigError, which calls it `name`, where it is not acceptable."""
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
    """Return the mapping that a YAML file holds; ConfigError where there is no such file or it holds something else."""
    try:
        content = read_file(path, SETTINGS)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is not a file; expected a preset's name or a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path} {reason_of(error)}; expected a preset's name or a YAML file") from error
    return read_yaml_settings(content, str(path))


def read_yaml_settings(content: bytes, path: str) -> dict[str, Any]:
    """Return the mapping that the bytes of a YAML file hold; ConfigError, which names the file, likewise."""
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
    """Return a JSON-like value as one line of YAML, such that `read_yaml` gives it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_value(key)}: {write_value(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if _PLAIN.fullmatch(text) and not text.startswith(("-", "~")) and not text.endswith(":"):
        tag = _Loader.plain_tag(text)
        if tag == f"{_TAG}str":
            return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '\\"':
        return "\\" + character
    if character == " " or (character.isprintable() and not 0xD800 <= ord(character) <= 0xDFFF):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Loader(Reader, Scanner, Parser, Composer, BaseConstructor, BaseResolver):
    """A PyYAML loader that knows the core types only."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseConstructor.__init__(self)
        BaseResolver.__init__(self)

    @classmethod
    def plain_tag(cls, text: str) -> str:
        """Return the tag that a plain scalar of this text gets."""
        for tag, pattern in cls.yaml_implicit_resolvers.get(text[:1], ()):
            if pattern.match(text):
                return str(tag)
        return f"{_TAG}str"

    def get_event(self) -> Event:
        """Hand the next event to the composer unless it is an anchor, an alias or a tag."""
        event: Event = super().get_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor is not None):
            raise MarkedYAMLError(problem="anchors and aliases are not accepted", problem_mark=mark)
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise MarkedYAMLError(problem=f"the tag {tag!r} is not accepted", problem_mark=mark)
        return event

    def null(self, _node: Node) -> None:
        """Construct null."""

    def boolean(self, node: ScalarNode) -> bool:
        """Construct true or false."""
        return bool(node.value[0] in "tT")

    def integer(self, node: ScalarNode) -> int:
        """Construct an integer."""
        return int(node.value)

    def number(self, node: ScalarNode) -> float:
        """Construct a float; one beyond the range is refused."""
        value = float(node.value)
        if value in (float("inf"), float("-inf")):
            raise MarkedYAMLError(problem=f"{node.value} is too large", problem_mark=node.start_mark)
        return value

    def text(self, node: ScalarNode) -> str:
        """Construct text; half a character (a lone surrogate) is refused."""
        if any(0xD800 <= ord(character) <= 0xDFFF for character in node.value):
            raise MarkedYAMLError(problem="a lone surrogate is not text", problem_mark=node.start_mark)
        return str(node.value)

    def sequence(self, node: SequenceNode) -> list[Any]:
        """Construct a list."""
        return [self.construct_object(item, deep=True) for item in node.value]

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


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_CONSTRUCTORS: dict[str, Any] = {
    "null": _Loader.null,
    "bool": _Loader.boolean,
    "int": _Loader.integer,
    "float": _Loader.number,
    "str": _Loader.text,
    "seq": _Loader.sequence,
    "map": _Loader.mapping,
}
for _name, _method in _CONSTRUCTORS.items():
    _Loader.add_constructor(f"{_TAG}{_name}", _method)
