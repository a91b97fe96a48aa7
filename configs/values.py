"""What a setting's type says beyond Python's: its form on the command line, its choices, its environment variable.

A type is Python's with marks: `Checkpoint = Annotated[str, Form("CKPT")]`, then `tokenizer: Checkpoint | None = None`.
The command line (`commands/from_config.py`), shell completion, the environment (`load.py`) and pydantic read them.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from deltactl.configs.frame_size import FORM, FrameSize

MarkT = TypeVar("MarkT")


@dataclass(frozen=True, eq=False)
class Form:
    """The placeholder of a value on help pages, such as `DIR`."""

    text: str


@dataclass(frozen=True, eq=False)
class Variable:
    """The environment variable that sets a setting: above defaults and presets, below the command line."""

    name: str | Callable[[str], str | None]
    """Its name; if another setting decides, what returns the name for a value of that."""
    by: str = ""
    """That other setting."""
    of: Callable[[], Collection[str]] = tuple
    """Returns the values of that setting for which variables are shown."""

    @property
    def names(self) -> list[str]:
        """Return every variable that may count."""
        if isinstance(self.name, str):
            return [self.name]
        return [name for name in dict.fromkeys(map(self.name, self.of())) if name is not None]

    def name_for(self, decider: Any) -> str | None:
        """Return the variable that counts beside this value of the deciding setting; None if there is none."""
        return self.name if isinstance(self.name, str) else self.name(str(decider))


@dataclass(frozen=True, eq=False)
class OneOf:
    """A name out of a registry, which is asked when a value is checked or its choices are shown, not on import.

    `DataSetName = Annotated[str, OneOf(names)]`; an unknown name is refused with the known and the nearest ones.
    """

    known: Callable[[], Collection[str]]
    """Returns the names, in the order they are shown."""
    file: str = ""
    """The file that may stand in place of a name, as help pages show it, such as `FILE.yaml`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the name after its type."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, name: str) -> str:
        """Return a known name as it is.

        Raises:
            ValueError: it is not known.
        """
        known = list(self.known())
        if name in known:
            return name
        *others, last = (*map(repr, known), *([self.file] if self.file else []))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected {', '.join(others)}{' or ' if others else ''}{last}{hint}")


# --- types of settings -----------------------------------------------------------------------------------------------


def check_device(name: str) -> str:
    """Return the name of a device as it is.

    Raises:
        ValueError: no device is named so.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("expected auto, cpu, cuda or cuda:N")
    return name


def check_part(part: str) -> str:
    """Return `I/N`, the I-th of N parts counted from 1, as it is.

    Raises:
        ValueError: the text is something else.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("expected I/N with 1 <= I <= N, such as 3/8")
    return part


def check_columns(text: str) -> str:
    """Return names of columns between commas, sorted, or `all` or `none`, as one text for one choice.

    Raises:
        ValueError: the text is something else.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name) for name in names):
        raise ValueError("expected names between commas, such as actions,clip.text, or all, or none")
    if "none" in names and len(names) > 1:
        raise ValueError("expected none alone, or names between commas, or all")
    return "all" if "all" in names else ",".join(sorted(set(names)))


def check_names(text: str) -> str:
    """Return names between commas, sorted, as one text for one choice.

    Raises:
        ValueError: one is empty.
    """
    names = sorted({name.strip() for name in text.split(",")})
    if not all(names):
        raise ValueError("expected names between commas, such as front,wrist")
    return ",".join(names)


def parse_range(text: str) -> tuple[float, float]:
    """Return the two ends of `A:B`, or a single number twice; numbers are decimals or fractions, such as `3/4:4/3`.

    Raises:
        ValueError: the text is something else.
    """
    number = r"[0-9]{1,9}(?:\.[0-9]{1,12})?"
    match = re.fullmatch(rf"({number}(?:/{number})?)(?::({number}(?:/{number})?))?", text.strip())
    ends = [] if match is None else [_number(each) for each in (match[1], match[2] or match[1])]
    if len(ends) != 2 or None in ends:
        raise ValueError("expected A:B, such as 0.6:1 or 3/4:4/3, or one number")
    return float(ends[0] or 0), float(ends[1] or 0)


def range_text(ends: tuple[float, float]) -> str:
    """Return the one text of a range that `parse_range` reads as exactly these numbers, such as `0.75:4/3`."""
    low, high = map(_number_text, ends)
    return low if low == high else f"{low}:{high}"


def _number(text: str) -> Fraction | None:
    above, _, below = text.partition("/")
    return None if below and not Fraction(below) else Fraction(above) / Fraction(below or 1)


def _number_text(value: float) -> str:
    decimal = f"{value:.9f}".rstrip("0").rstrip(".")
    fraction = Fraction(value).limit_denominator(999)
    if float(decimal) == value:
        return decimal
    # What is neither a short decimal nor a simple fraction is told as the number nearest to it that `Fraction` finds.
    return str(fraction) if float(fraction) == value else f"{value:.12f}"


def _checked_range(text: str, least: str, most: float) -> str:
    try:
        low, high = parse_range(text)
    except ValueError as error:
        raise ValueError(f"expected {least}") from error
    if not 0 < low <= high <= most:
        raise ValueError(f"expected {least}")
    return range_text((low, high))


def number_as_text(value: Any) -> Any:
    """Return a number as the text that stands for it, and anything else as it is: a file may say `stride: 0.2`."""
    return f"{value:.12f}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def check_stride(text: str) -> str:
    """Return the one text of a range of seconds.

    Raises:
        ValueError: it is none, or not above 0.
    """
    return _checked_range(text, "seconds as A:B with 0 < A <= B, such as 0.04:1/3, or one number above 0", math.inf)


def check_area(text: str) -> str:
    """Return the one text of a range of shares of a frame's area.

    Raises:
        ValueError: it is none, or not within (0, 1].
    """
    return _checked_range(text, "shares of the area as A:B with 0 < A <= B <= 1, such as 0.6:1", 1.0)


def check_aspect(text: str) -> str:
    """Return the one text of a range of ratios of width to height.

    Raises:
        ValueError: it is none, or not above 0.
    """
    return _checked_range(text, "ratios of width to height as A:B with 0 < A <= B, such as 3/4:4/3", math.inf)


Checkpoint = Annotated[str, Form("CKPT")]
"""A file of weights, a run, or a name on the Hub."""
Place = Annotated[str, Form("DIR")]
"""A folder or URL."""
Backbone = Annotated[str, Form("NAME|DIR"), Variable("DELTACTL_BACKBONE")]
"""A frozen network: a name on the Hub, or a folder; behind `FAMILY:` where its config.json does not tell the family."""
File = Annotated[str, Form("FILE")]
"""A file."""
Size = Annotated[FrameSize, Form(FORM)]
"""Height and width of frames."""
Seconds = Annotated[float, Form("SECONDS")]
"""A time."""
Stride = Annotated[str, Form("A:B"), BeforeValidator(number_as_text), AfterValidator(check_stride)]
"""Seconds from one frame to the next."""
CropArea = Annotated[str, Form("A:B"), BeforeValidator(number_as_text), AfterValidator(check_area)]
"""Shares of a frame's area."""
AspectRatios = Annotated[str, Form("A:B"), BeforeValidator(number_as_text), AfterValidator(check_aspect)]
"""Ratios of width to height."""
Views = Annotated[str, Form("N|A:B")]
"""A count, or a range of numbers."""
Device = Annotated[str, Form("NAME"), AfterValidator(check_device)]
"""What to compute on."""
Part = Annotated[str, Form("I/N"), AfterValidator(check_part)]
"""One of N shares of the work."""
Precision = Literal["auto", "float32", "bfloat16"]
"""Of matrix products."""


# --- reading the marks -----------------------------------------------------------------------------------------------


def plain_type(annotation: Any) -> Any:
    """Return a field's type without marks and without None: `int` of `Annotated[int, …] | None`."""
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    if type(None) in get_args(annotation) and len(kinds) == 1:
        return plain_type(kinds[0])
    return annotation


def marks(field: FieldInfo, kind: type[MarkT]) -> list[MarkT]:
    """Return the marks of a kind (`Form`, pydantic's limits, …) on a field and on the types in it."""
    return [each for each in (*field.metadata, *_marks_inside(field.annotation)) if isinstance(each, kind)]


def _marks_inside(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for each in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _marks_inside(each)


def choices(field: FieldInfo) -> list[str]:
    """Return the values of a setting that has few: those of a choice, true and false, null if it may be absent."""
    names = [name for each in marks(field, OneOf) for name in each.known()]
    return [*names, *dict.fromkeys(_literals(field.annotation))]


def _literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"
    elif get_origin(annotation) not in (tuple, list, dict):
        for each in get_args(annotation):
            yield from _literals(each)


def variables(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variable of each setting that has one and that is set, beside these values of others."""
    found = {}
    for name, field in model.model_fields.items():
        for variable in marks(field, Variable):
            decider = model.model_fields.get(variable.by)
            chosen = variable.name_for(values.get(variable.by, decider.default if decider else None))
            if chosen is not None and os.environ.get(chosen):
                found[name] = chosen
    return found
