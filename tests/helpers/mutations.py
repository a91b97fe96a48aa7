"""Sealed files with a value that does not belong: each place of a JSON file, each kind of wrong value, sealed anew.

What a checksum cannot find: a script that changed a file and made its seal again, or a file of another artifact.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from deltactl.artifacts import canonical_json

Path = tuple[Any, ...]
"""Keys and indices that lead to a value."""

MUTANTS = {
    "null": "null",
    "true": "true",
    "text": '"x"',
    "empty text": '""',
    "list": "[]",
    "object": "{}",
    "list of null": "[null]",
    "negative": "-1",
    "huge": str(10**30),
    "thousands of digits": "9" * 5000,
    "fraction": "0.5",
    "NaN": "NaN",
    "infinite": "1e999",
    "deep": "[" * 100 + "]" * 100,
    "deeper": "[" * 50_000 + "]" * 50_000,
}
"""What a value is replaced by, as JSON text."""
MARK = "a value to replace"
GONE = "removed"


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the way to each value inside; of a list the first and the last stand for all."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def mutated(content: dict[str, Any], path: Path, mutant: str) -> dict[str, Any]:
    """Return a copy with the value at the end of the path marked, or removed."""
    result = copy.deepcopy(content)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if mutant == GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = MARK
    return result


def sealed(content: dict[str, Any], mutant: str, inside: str | None = None) -> bytes:
    """Return the bytes of a marked content, sealed as the program seals it; `inside` names the object with the seal."""
    bare = {key: value for key, value in (content if inside is None else content[inside]).items() if key != "sha256"}
    digest = hashlib.sha256(_filled(bare, mutant)).hexdigest()
    whole = {**bare, "sha256": digest} if inside is None else {**content, inside: {**bare, "sha256": digest}}
    return _filled(whole, mutant)


def _filled(content: dict[str, Any], mutant: str) -> bytes:
    return canonical_json(content).replace(json.dumps(MARK).encode(), MUTANTS.get(mutant, "").encode())
