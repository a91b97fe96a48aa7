"""Violation-of-expectation sets: pairs of videos, possible and impossible, and how often a score tells them apart.

A set is told in a small CSV file, one pair a line, under the headings `possible` and `impossible` (names of videos),
and perhaps `set` (what the pair tests, such as permanence; accuracies are told for each) and `group` (pairs of one
scene; by default every pair is one).

A pair is told right where the impossible video is more surprising, half right where both are equally so. A video's
surprise is the mean or the largest of its frames' scores. Accuracies have Wilson's 95 % interval over groups, which is
honest also where all are right; the difference to copy-last's has the paired bootstrap interval of
`protocol.intervals`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from deltactl.errors import ConfigError
from deltactl.evaluate.protocol.intervals import Interval, Resampling, wilson
from deltactl.locations import Location

COLUMNS = ("possible", "impossible")
OPTIONAL = ("set", "group")


@dataclass(frozen=True)
class Pair:
    """Two videos that differ in whether what happens is possible."""

    possible: str
    impossible: str
    set: str = ""
    group: str = ""


def read_pairs(place: Location) -> list[Pair]:
    """Return the pairs that a file tells.

    Raises:
        ConfigError: it is not there, or no such file; the message names the line.
    """
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--pairs {place} cannot be read ({error}); expected a CSV file of pairs") from error
    reader = csv.DictReader(io.StringIO(text))
    headings = list(reader.fieldnames or ())
    if missing := [name for name in COLUMNS if name not in headings]:
        raise ConfigError(
            f"--pairs {place} has no column {missing[0]!r} (found: {', '.join(headings) or 'nothing'}); its first "
            "line must be: possible,impossible (and perhaps set,group)"
        )
    if unknown := [name for name in headings if name not in (*COLUMNS, *OPTIONAL)]:
        raise ConfigError(f"--pairs {place} has a column {unknown[0]!r}; known are {', '.join((*COLUMNS, *OPTIONAL))}")
    pairs = []
    for number, row in enumerate(reader, start=1):
        values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, *OPTIONAL)}
        if None in row or not values["possible"] or not values["impossible"]:
            raise ConfigError(f"--pairs {place}: pair {number} is incomplete, or has too many columns: {_shown(row)}")
        if values["possible"] == values["impossible"]:
            raise ConfigError(f"--pairs {place}: pair {number} is {values['possible']!r} twice; expected two videos")
        pairs.append(Pair(**{**values, "group": values["group"] or f"pair {number}"}))
    if not pairs:
        raise ConfigError(f"--pairs {place} tells no pair; expected a line for each below its headings")
    return pairs


def videos_of(pairs: Sequence[Pair]) -> list[str]:
    """Return every video once, in order."""
    return list(dict.fromkeys(name for pair in pairs for name in (pair.possible, pair.impossible)))


def check_names(pairs: Sequence[Pair], there: Sequence[str], place: Location, source: Location) -> None:
    """Raise ConfigError where a pair names a video that is not among those that are there."""
    known = set(there)
    if absent := [name for name in videos_of(pairs) if name not in known]:
        example = f", such as {min(known)!r}" if known else ""
        raise ConfigError(
            f"--pairs {place} names {absent[0]!r}{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}, which "
            f"{source} does not have; it has {len(known):,} videos{example}"
        )


def check_inside(pairs: Sequence[Pair], place: Location) -> None:
    """Raise ConfigError for a name that leads out of the folder of videos."""
    for name in videos_of(pairs):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"--pairs {place} names {name!r}; expected paths below the folder of videos")


@dataclass(frozen=True)
class Accuracy:
    """How often one score tells pairs apart."""

    set: str
    """Empty for all pairs."""
    score: str
    over: str
    """`mean` or `max` of the frames."""
    value: float
    interval: Interval
    pairs: int
    groups: int
    above_copy_last: float | None = None
    """By how much it is above the accuracy of copy-last's distance in the same space."""
    above_interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what the summary says of it."""
        ends = self.above_interval
        return {
            "set": self.set or None,
            "score": self.score,
            "over": self.over,
            "accuracy": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "pairs": self.pairs,
            "groups": self.groups,
            "above_copy_last": self.above_copy_last,
            "above_low": None if ends is None else ends.low,
            "above_high": None if ends is None else ends.high,
        }


def accuracies(pairs: Sequence[Pair], scores: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Accuracy]:
    """Return the accuracy of every score, over all pairs, then over those of each set.

    `scores` maps a video to the values of its frames, by the name of the score; scores with NaN are left out.
    """
    names = [
        name
        for name in scores[pairs[0].possible]
        if all(not np.isnan(scores[video][name]).any() for video in videos_of(pairs))
    ]
    sets = sorted({pair.set for pair in pairs} - {""})
    found = []
    for each in ["", *(sets if len(sets) > 1 or not all(pair.set for pair in pairs) else [])]:
        some = [pair for pair in pairs if not each or pair.set == each]
        for over in ("mean", "max"):
            right = {name: _right(some, scores, name, over) for name in names}
            for name in names:
                found.append(_accuracy(each, name, over, some, right))
    return found


def _right(
    pairs: Sequence[Pair], scores: Mapping[str, Mapping[str, Sequence[float]]], name: str, over: str
) -> np.ndarray:
    """Return 1, ½ or 0 for each pair."""

    def of(video: str) -> float:
        values = np.asarray(scores[video][name])
        return float(values.max() if over == "max" else values.mean())

    return np.array([(np.sign(of(pair.impossible) - of(pair.possible)) + 1) / 2 for pair in pairs])


def _accuracy(each: str, name: str, over: str, pairs: Sequence[Pair], right: Mapping[str, np.ndarray]) -> Accuracy:
    groups = list(dict.fromkeys(pair.group for pair in pairs))
    of_pair = np.array([groups.index(pair.group) for pair in pairs])
    value = float(right[name].mean())
    above, ends = None, None
    space, _, what = name.partition("_")
    baseline = f"{space}_copy_last"
    if baseline in right and what != "copy_last":
        difference = right[name] - right[baseline]
        sums = np.stack(
            [np.bincount(of_pair, weights=difference, minlength=len(groups)), np.bincount(of_pair).astype(float)], 1
        )
        resampling = Resampling(len(groups))
        drawn = resampling.sums(sums)
        above, (ends,) = float(difference.mean()), resampling.intervals(drawn[:, :1] / drawn[:, 1:])
    return Accuracy(each, name, over, value, wilson(value, len(groups)), len(pairs), len(groups), above, ends)


def _shown(row: Mapping[Any, Any]) -> str:
    return ", ".join(str(value) for value in row.values())
