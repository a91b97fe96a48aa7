"""The figures of every row with their intervals, and the differences of rows with paired ones.

Takes the sums of every video (`videos`), resamples them (`intervals`), returns what `metrics.json` says of each row
beside the published metric and loss. What is measured comes from the task: `Task.scores`; the cosine distance and the
loss of the features are measured for every task.

R repeats · V videos · N sums · K values of a score
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from deltactl.datasets.record import LabelledSet
from deltactl.evaluate.protocol.intervals import Interval, Resampling, ends_of
from deltactl.evaluate.protocol.predictions import Row
from deltactl.evaluate.protocol.videos import CLIPS, COSINE, LOSS, METRIC, VideoSums
from deltactl.fields import without_nan
from deltactl.tasks.known import task_of

Select = tuple[str, str]
"""Method, and choice of sample."""
DIFFERENCES: tuple[tuple[Select, Select], ...] = (
    (("deltaworld", "best"), ("copy_last", "")),
    (("deltaworld", "mean"), ("copy_last", "")),
    (("dinoworld", ""), ("copy_last", "")),
    (("deltaworld", "best"), ("noise_null", "best")),
    (("deltaworld", "mean"), ("dinoworld", "")),
)
"""Rows that are compared: a prediction must beat the last frame, the best of many also noise."""


@dataclass(frozen=True)
class Measure:
    """One number of a row, or one for each of several classes, from the sums of some videos."""

    name: str
    title: str
    """Name and unit for people."""
    better: Literal["higher", "lower"]
    of: Callable[[Float64[np.ndarray, "*R N"]], Float64[np.ndarray, "*R K"]]
    """Takes the sums of `VideoSums`."""
    classes: tuple[str, ...] = ()
    """What the values are of, where there are several."""

    def to_json(self) -> dict[str, Any]:
        """Return what `metrics.json` says of it."""
        said = {"name": self.name, "title": self.title, "better": self.better}
        return {**said, "classes": list(self.classes) or None}


@dataclass(frozen=True)
class OverSeeds:
    """A number over several seeds of the sampler."""

    values: tuple[float, ...]
    """By seed."""
    mean: float
    interval: Interval | None
    """Of the mean, on other videos and with other seeds."""


@dataclass(frozen=True)
class Figure:
    """A number of a row, or a difference of two rows, with its interval."""

    value: float
    interval: Interval | None
    seeds: OverSeeds | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `metrics.json` says of it."""
        said: dict[str, Any] = {"value": self.value, **ends_of(self.interval)}
        if self.seeds is not None:
            of_seeds = self.seeds
            said["seeds"] = {"values": list(of_seeds.values), "mean": of_seeds.mean, **ends_of(of_seeds.interval)}
        return said


def measures_of(dataset: LabelledSet, names: tuple[str, ...], *, labelled: bool) -> tuple[Measure, ...]:
    """Return what is measured of a data set, whose classes have these names; `labelled`: its task's scores, too."""
    scores = task_of(dataset.said_as).scores(dataset, names) if labelled else ()
    return (
        *(
            Measure(each.name, each.title, each.better, _of_metric(each.of), tuple(each.classes))
            for each in sorted(scores, key=lambda each: bool(each.classes))
        ),
        Measure("cosine", "cosine distance", "lower", lambda sums: _over_clips(sums, COSINE)),
        Measure("loss", "loss", "lower", lambda sums: _over_clips(sums, LOSS)),
    )


def _of_metric(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: of(sums[..., METRIC:])


def _over_clips(sums: Float64[np.ndarray, "*R N"], column: int) -> Float64[np.ndarray, "*R 1"]:
    return np.asarray(sums[..., column : column + 1] / sums[..., CLIPS : CLIPS + 1])


@dataclass(frozen=True)
class _Values:
    """Values of a measure: of all videos, and of the drawn ones."""

    all: Float64[np.ndarray, " K"]
    drawn: Float64[np.ndarray, "R K"]

    def __sub__(self, other: _Values) -> _Values:
        return _Values(self.all - other.all, self.drawn - other.drawn)


class Figures:
    """The figures of an evaluation."""

    def __init__(
        self, sums: VideoSums, measures: Sequence[Measure], seeds: int = 1, resampling: Resampling | None = None
    ) -> None:
        self.measures = tuple(measures)
        self._sums = sums
        self._seeds = seeds
        self._resampling = resampling or Resampling(len(sums.videos), seeds)
        self._single = tuple(each for each in measures if not each.classes)
        self._values: dict[Row, dict[str, _Values]] = {}

    def of(self, row: Row) -> dict[str, Figure]:
        """Return the figures of a row by name; those that were not measured are absent."""
        return self._figures([self._measured(each) for each in self._draws(row)])

    def difference(self, row: Row, other: Row, of: Figures | None = None) -> dict[str, Figure]:
        """Return by how much a row is above another, by name, with paired intervals.

        `of`: the figures that the other row is of, of the same videos and resampled alike; by default these.
        """
        others_figures = of or self
        rows, others = self._draws(row), others_figures._draws(other)
        number = max(len(rows), len(others))
        pairs = zip(rows * (number // len(rows)), others * (number // len(others)), strict=True)
        return self._figures([_apart(self._measured(one), others_figures._measured(two)) for one, two in pairs])

    def of_classes(self, row: Row) -> Iterator[tuple[Measure, list[float | None], list[Interval | None]]]:
        """Yield each measure of several classes, with the value and the interval of each class."""
        for measure in self.measures:
            if measure.classes:
                values = self._value(measure, row, self._resampling.sums(self._sums.of(row)))
                yield (
                    measure,
                    without_nan(values.all.tolist()),
                    self._resampling.intervals(values.drawn),
                )

    def _draws(self, row: Row) -> list[Row]:
        """Return a row as it is from each seed; itself alone where its samples were drawn from one, or it has none."""
        draws = [replace(row, draw=number) for number in range(self._seeds)]
        return draws if all(each in self._sums.rows for each in draws) else [row]

    def _measured(self, row: Row) -> dict[str, _Values]:
        if row not in self._values:
            drawn = self._resampling.sums(self._sums.of(row))
            self._values[row] = {each.name: self._value(each, row, drawn) for each in self._single}
        return self._values[row]

    def _value(self, measure: Measure, row: Row, drawn: Float64[np.ndarray, "R N"]) -> _Values:
        with np.errstate(divide="ignore", invalid="ignore"):  # a row without labels
            return _Values(measure.of(self._sums.of(row).sum(axis=0)), measure.of(drawn))

    def _figures(self, draws: list[dict[str, _Values]]) -> dict[str, Figure]:
        found = {}
        for name in draws[0]:
            values = [draw[name] for draw in draws]
            by_seed = tuple(float(each.all[0]) for each in values)
            if not any(map(math.isnan, by_seed)):
                found[name] = Figure(by_seed[0], self._interval(values[0].drawn), self._over_seeds(by_seed, values))
        return found

    def _over_seeds(self, by_seed: tuple[float, ...], values: list[_Values]) -> OverSeeds | None:
        if len(by_seed) == 1:
            return None
        drawn = self._resampling.over_seeds([each.drawn for each in values])
        return OverSeeds(by_seed, math.fsum(by_seed) / len(by_seed), self._interval(drawn))

    def _interval(self, drawn: Float64[np.ndarray, "R 1"]) -> Interval | None:
        return self._resampling.intervals(drawn)[0]


def _apart(values: Mapping[str, _Values], others: Mapping[str, _Values]) -> dict[str, _Values]:
    return {name: values[name] - others[name] for name in values if name in others}


def compared_rows(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the pairs of rows whose difference is told, each at the last frame of its horizon."""
    last: dict[tuple[str, str, int], Row] = {
        (row.method, row.select, row.horizon): row
        for row in rows
        if row.table == "rows" and row.step == row.horizon and row.draw == 0
    }
    return [
        (last[*one, horizon], last[*two, horizon])
        for horizon in sorted({row.horizon for row in rows})
        for one, two in DIFFERENCES
        if (*one, horizon) in last and (*two, horizon) in last
    ]
