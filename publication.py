"""What may be shared of how something came about: facts without the machine and the places of whoever made it.

Provenance says everything, for whoever made an artifact. A model card, the files of an export and a report's page are
made to be passed on: names of hosts, command lines and paths outside of the work's own folder tell others nothing that
they can use, and more than its maker may want to tell.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

PRIVATE = frozenset({"command", "host", "hostname", "node", "user", "cwd", "pid", "home"})
"""Facts that are left out, by name."""
_START = r"(?:~|\.\.|(?!https?:)[A-Za-z][\w.-]*:)?[\\/]|~[A-Za-z]|(?!https?:)[A-Za-z][A-Za-z0-9+.-]*://"
_WHOLE = re.compile(rf"(?:{_START})[^\n]*")
"""Text that is nothing but a place: from the root of a disk, a home folder, above the working folder, or by a URL; also
behind a word, as a drive's or that of a family of backbones."""
_INSIDE = re.compile(rf"(?<![\w/.:~-])(?:{_START})[^\s'\",;()]*")


def publishable(value: Any) -> Any:
    """Return JSON-like facts without private ones; of a place in a text only its last name is left."""
    if isinstance(value, Mapping):
        return {str(name): publishable(item) for name, item in value.items() if str(name).lower() not in PRIVATE}
    if isinstance(value, list | tuple):
        return [publishable(item) for item in value]
    if not isinstance(value, str):
        return value
    if _WHOLE.fullmatch(value):
        return _last_name(value)
    return _INSIDE.sub(lambda match: _last_name(match[0]), value)


def publishable_command(command: str) -> str:
    """Return a command line without private places: of each the last name is left, also of the program itself."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unbalanced quote: it was not written by a program
        words = command.split()
    if words and words[0].endswith("__main__.py"):
        words[0] = "deltactl"
    return shlex.join("=".join(publishable(part) for part in word.split("=")) for word in words)


def front_matter(values: Mapping[str, Any]) -> str:
    """Return the YAML at the top of a card, which the Hub reads, without values that are None; JSON is YAML."""
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None]
    return "\n".join(("---", *lines, "---"))


def _last_name(place: str) -> str:
    return re.split(r"[\\/]", place.rstrip("\\/"))[-1]
