"""What a JSON file of ours says, taken value by value: of the right type and range, or the file is damaged.

Takes a parsed JSON value and the file that it came from; returns texts, numbers and lists of them. A checksum shows
that a file is as it was written, not that what was written belongs there: it may be another artifact's, or a script
may have changed and sealed it. So nothing is taken from a file by a bare `content["key"]`: whatever is missing, or of
another type, is one DamagedError that names the file, the value and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from deltactl.errors import DamagedError
from deltactl.locations import Location

LARGEST_INTEGER = 2**63 - 1
SHOWN_LETTERS = 60
_ABSENT: Any = object()


def without_nan(value: Any) -> Any:
    """Return a value of lists, objects and numbers with None where it has NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class Fields:
    """A JSON object of a file. Each method takes one value by its name, and raises DamagedError if it is unlike."""

    def __init__(self, value: object, place: Location | str, name: str = "", remedy: str = "") -> None:
        """`name`: where in the file the object stands, such as `units.000017`; `remedy`: what ends every message."""
        self.place = place
        self._name = name
        self._remedy = remedy
        if not isinstance(value, dict):
            raise self.wrong("", value, "an object")
        self.values: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str) -> str:
        """Return a text."""
        return self._text(self._get(key), key)

    def integer(self, key: str, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        return self._integer(self._get(key), key, least)

    def number(self, key: str) -> float:
        """Return a finite number."""
        return self._number(self._get(key), key)

    def nested(self, key: str) -> Fields:
        """Return an object inside this one."""
        return Fields(self._get(key), self.place, self._path(key), self._remedy)

    def objects(self, key: str | None = None) -> Iterator[tuple[str, Fields]]:
        """Yield the names and values of an object of objects: one inside this one, or this one."""
        inner = self if key is None else self.nested(key)
        for name in inner.values:
            yield name, inner.nested(name)

    def array(self, key: str, length: int | None = None) -> list[Any]:
        """Return a list, of so many items if that is known."""
        value = self._get(key)
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self.wrong(key, value, "a list" if length is None else f"a list of {length}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        items = self.array(key)
        if all(isinstance(item, str) for item in items):  # at once: a store's index holds half a million
            return items
        return [self._text(item, f"{key}[{number}]") for number, item in enumerate(items)]

    def integers(self, key: str, length: int | None = None, least: int = 0) -> list[int]:
        """Return a list of whole numbers of at least `least`."""
        items = enumerate(self.array(key, length))
        return [self._integer(item, f"{key}[{number}]", least) for number, item in items]

    def numbers(self, key: str) -> list[float]:
        """Return a list of finite numbers."""
        return [self._number(item, f"{key}[{number}]") for number, item in enumerate(self.array(key))]

    def items(self, key: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for number, item in enumerate(self.array(key)):
            yield Fields(item, self.place, self._path(f"{key}[{number}]"), self._remedy)

    def entries(self, key: str) -> tuple[dict[str, Any], ...]:
        """Return the objects of a list as they are; none if there is no such list."""
        return tuple(item.values for item in self.items(key)) if key in self else ()

    def text_map(self, key: str) -> dict[str, str]:
        """Return an object whose values are texts."""
        inner = self.nested(key)
        return {name: inner.text(name) for name in inner.values}

    def wrong(self, key: str, value: object, expected: str) -> DamagedError:
        """Return the error that says what a value is and what was expected."""
        where = self._path(key) or "its content"
        if value is _ABSENT:
            return DamagedError(f"{self.place} is damaged: it has no {where!r}{self._remedy}")
        if isinstance(value, list | dict):
            said = f"{where} is {'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
        else:
            said = f"{where} is {_shown(value)}"
        return DamagedError(f"{self.place} is damaged: {said}; expected {expected}{self._remedy}")

    def _get(self, key: str) -> Any:
        value = self.values.get(key, _ABSENT)
        if value is _ABSENT:
            raise self.wrong(key, value, "one")
        return value

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}".strip(".")

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, value, "text")
        return value

    def _integer(self, value: object, key: str, least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_INTEGER:
            raise self.wrong(key, value, f"a whole number of at least {least}")
        return value

    def _number(self, value: object, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST_INTEGER:
            raise self.wrong(key, value, "a number")
        if not math.isfinite(value):
            raise self.wrong(key, value, "a finite number")
        return float(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
