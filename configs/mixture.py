"""Several data sets with weights, as one setting: `[features/a=0.7, features/b=0.3]`, or a file of them.

Takes the value of `data`, returns places and weights. A weight stands behind the last `=` of its place and is a number
above 0; only their ratio counts. Where no set has one, all count alike. A file, YAML or JSON, maps places to weights.
Numbers are kept as they are written (0.7 is 7/10), so that shares are exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from deltactl.configs.values import Form
from deltactl.errors import ConfigError

SUFFIXES = (".yaml", ".yml", ".json")
"""How the name of a file of sets ends."""
SMALLEST_SHARE = Fraction(1, 1_000_000)
"""Of the samples; a set of less would hardly ever come."""
_NUMBER = re.compile(r"[0-9]{0,20}\.?[0-9]{1,20}(?:[eE][-+]?[0-9]{1,2})?|[0-9]{1,20}\.")


@dataclass(frozen=True)
class Weighted:
    """One data set."""

    place: str
    """Its folder or URL, as it was given."""
    share: Fraction = Fraction(1)
    """Of the samples that train; those of all sets add up to 1."""


def weighted(value: str | Sequence[str]) -> tuple[Weighted, ...]:
    """Return the sets that a value of `data` names; one place by itself is one set.

    Raises:
        ValueError: a weight is no number above 0, some sets have one and others none, a set is named twice, or its
            share is too small. Says what was given.
    """
    if isinstance(value, str):
        return (Weighted(value),)
    split = [_split(text) for text in value]
    if not split:
        raise ValueError("expected a place, or several with their weights, such as features/a=0.7")
    without = [place for place, weight in split if weight is None]
    if len(split) > 1 and (files := [place for place in without if _is_file_of_sets(place)]):
        raise ValueError(f"{files[0]} is a file of sets, and {len(split) - 1} more are named beside it; put them there")
    if without and len(without) < len(split):
        raise ValueError(f"{without[0]} has no weight beside others that have one; write {without[0]}=WEIGHT")
    return shared([(place, "1" if weight is None else weight) for place, weight in split])


def shared(weights: Sequence[tuple[str, str]]) -> tuple[Weighted, ...]:
    """Return sets with their shares of places with weights, numbers as text; raises as `weighted`."""
    numbers: dict[str, Fraction] = {}
    for place, text in weights:
        if not place:
            raise ValueError(f"the weight {text} stands behind no place; expected PLACE=WEIGHT")
        if place in numbers:
            raise ValueError(f"{place} is named twice; name each set once, with one weight")
        numbers[place] = _positive(place, text)
    total = sum(numbers.values(), Fraction(0))
    for place, number in numbers.items():
        if number / total < SMALLEST_SHARE:
            raise ValueError(
                f"the weight of {place} is {float(number):g} of {float(total):g} in all, less than one sample in "
                f"{SMALLEST_SHARE.denominator:,}; give it more, or leave it out"
            )
    return tuple(Weighted(place, number / total) for place, number in numbers.items())


def texts(sets: Mapping[str, float]) -> tuple[str, ...]:
    """Return the value of `data` that names places with weights."""
    return tuple(f"{place}={weight!r}" for place, weight in sets.items())


def file_of_sets(value: str | Sequence[str]) -> str | None:
    """Return the file that the sets stand in where the value names one."""
    named = [value] if isinstance(value, str) else list(value)
    return named[0] if len(named) == 1 and _is_file_of_sets(named[0]) else None


def read_sets(file: str) -> tuple[str, ...]:
    """Return the value of `data` that a file stands for: a YAML or JSON mapping of places to weights.

    Raises:
        ConfigError: it is not there, or holds something else.
    """
    from deltactl.configs.yaml_text import read_yaml_file  # which needs PyYAML, for a file only

    content = read_yaml_file(Path(file).expanduser())
    if not content:
        raise ConfigError(f"{file} names no sets; expected lines of PLACE: WEIGHT")
    for place, weight in content.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"{file}: the weight of {place} is {weight!r}; expected a number above 0")
    named = texts(content)
    try:
        weighted(named)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return named


def check_sets(value: Any) -> Any:
    """Return the value of `data` as it is; raises ValueError as `weighted`."""
    if value is not None and not isinstance(value, str):
        weighted(value)
    return value


def _is_file_of_sets(place: str) -> bool:
    return place.lower().endswith(SUFFIXES) and "://" not in place and not Path(place).expanduser().is_dir()


def _split(text: str) -> tuple[str, str | None]:
    """Return place and weight; a place without one may have an `=` in a folder above its last name."""
    place, equals, weight = text.rpartition("=")
    return (place, weight.strip()) if equals and not re.search(r"[/\\]", weight) else (text, None)


def _positive(place: str, text: str) -> Fraction:
    number = Fraction(text.rstrip(".")) if _NUMBER.fullmatch(text) else Fraction(0)
    if number <= 0:
        raise ValueError(f"the weight of {place} is {text!r}; expected a number above 0, as in {place}=0.7")
    return number


Sets = Annotated[str | tuple[str, ...], Form("DIR"), AfterValidator(check_sets)]
"""A folder or URL, or several, each with `=WEIGHT`."""
