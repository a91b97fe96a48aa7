"""The size of the frames that a stage works on: `512` for squares of 512 pixels, `266x518` for 266 rows of 518 pixels.

Takes a number, or text as it stands on the command line and in files; gives back the same: a number for a square, so
that whatever is written of squares stays as it was, and text, height first, for any other rectangle. `512x512` is the
square 512.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

LEAST_PIXELS = 16
"""No side is shorter."""
FORM = "N|HxW"
"""What it looks like, on help pages."""
_EXPECTED = f"expected N or HxW in pixels (height first, a letter x, from {LEAST_PIXELS} on), such as 512 or 266x518"
_SIDES = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_NEARLY = re.compile(r"\s*([0-9]{1,6})\s*(?:px)?\s*[xX*,:/× ]\s*([0-9]{1,6})\s*(?:px)?\s*")
"""What people write for it elsewhere."""


@dataclass(frozen=True)
class FrameSize:
    """Height and width of frames in pixels."""

    height: int
    width: int

    @classmethod
    def of(cls, value: object) -> FrameSize:
        """Return the size that a number (a square's side), text (`N` or `HxW`) or another size says.

        Raises:
            ValueError: it says none, or a side is shorter than 16 pixels; the message says what was expected.
        """
        if isinstance(value, FrameSize):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            sides = value, value
        elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value):
            sides = int(value), int(value)
        elif isinstance(value, str) and (match := _SIDES.fullmatch(value)):
            sides = int(match[1]), int(match[2])
        else:
            near = _NEARLY.fullmatch(value) if isinstance(value, str) else None
            raise ValueError(_EXPECTED + (f"; did you mean {int(near[1])}x{int(near[2])}?" if near else ""))
        if min(sides) < LEAST_PIXELS:
            raise ValueError(_EXPECTED)
        return cls(*sides)

    @property
    def square(self) -> bool:
        """Whether both sides are equal."""
        return self.height == self.width

    @property
    def pair(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """How many pixels a frame has."""
        return self.height * self.width

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def value(self) -> int | str:
        """The JSON value: a number for a square, text otherwise."""
        return self.height if self.square else str(self)

    def fits_within(self, other: FrameSize) -> bool:
        """Whether neither side is longer than the other size's: whether frames kept for that one serve this one."""
        return self.height <= other.height and self.width <= other.width

    def __str__(self) -> str:
        return str(self.height) if self.square else f"{self.height}x{self.width}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read it as `of` does, and write it to JSON as `value`."""
        from pydantic_core import core_schema

        written = core_schema.plain_serializer_function_ser_schema(_value_of, when_used="json")
        return core_schema.no_info_plain_validator_function(cls.of, serialization=written)


def _value_of(size: FrameSize) -> int | str:
    return size.value
