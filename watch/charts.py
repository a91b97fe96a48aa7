"""Which charts a run gets, and their axes; how they are drawn is `terminal`'s and `page`'s.

A chart has a figure of training as a line and, where there is one, the same figure of the validations as marks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deltactl.progress import format_number
from deltactl.watch.curves import Curve, Point
from deltactl.watch.figures import Figure, figure_of

LOG_RANGE = 20.0
"""Greatest over least, above which the axis is logarithmic."""
PARTNERS = ("train", "health")
"""Parts whose figures share a chart with those of `validation` of the same name."""
FIRST = ("loss", "z_swap", "copy", "mean_over_best", "waiting", "token_rank", "spread", "gradient_norm")


@dataclass(frozen=True)
class Chart:
    """One chart."""

    title: str
    figure: Figure
    line: tuple[Point, ...]
    """Of training, in the figure's unit."""
    marks: tuple[Point, ...]
    """Of validations, or evaluations."""
    newest_line: str
    newest_marks: str

    @property
    def points(self) -> tuple[Point, ...]:
        """All points."""
        return (*self.line, *self.marks)

    @property
    def last_step(self) -> float:
        """Where the horizontal axis ends; it begins at 0."""
        return max((point.step for point in self.points), default=1.0) or 1.0

    def axis(self) -> Axis:
        """Return the vertical axis, which holds the means."""
        return Axis.over([point.mean for point in self.points])


@dataclass(frozen=True)
class Axis:
    """A vertical axis."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def over(cls, values: list[float]) -> Axis:
        """Return the axis that just holds some values, of which there is one at least."""
        low, high = min(values), max(values)
        if low > 0 and high / low > LOG_RANGE:
            return cls(low, high, is_log=True)
        if high - low < 1e-6 * max(abs(low), abs(high), 1e-30):
            room = 0.1 * abs(high)
            return cls(low - room, high + (room or 1.0), is_log=False)
        return cls(low, high, is_log=False)

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at the bottom to 1 at the top; beyond the ends it is at them."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """Return the value that lies at a place."""
        if self.is_log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def labels(self, count: int) -> list[tuple[float, str]]:
        """Return places and texts of so many labels, from the top to the bottom."""
        places = [1 - number / (count - 1) for number in range(count)]
        return [(place, format_number(self.at(place))) for place in places]


def charts_of(curves: Mapping[str, Curve]) -> list[Chart]:
    """Return the charts that there is anything to draw in, the most telling first."""
    found = []
    taken: set[str] = set()
    for column in sorted(curves, key=_rank):
        part, _, name = column.partition("/")
        if column in taken:
            continue
        taken.add(column)
        if part in PARTNERS:
            partner = f"validation/{name}"
            taken.add(partner)
            found.append(_chart(name, column, curves[column], curves.get(partner)))
        else:
            found.append(_chart(column.removeprefix("validation/"), column, None, curves[column]))
    return [chart for chart in found if chart.points]


def _chart(title: str, column: str, line: Curve | None, marks: Curve | None) -> Chart:
    figure = figure_of(column)
    unit = f", {figure.unit}" if figure.unit in ("%", "m") else ""
    return Chart(
        f"{title}{unit}",
        figure,
        _scaled(line, figure),
        _scaled(marks, figure),
        _newest(line, figure),
        _newest(marks, figure),
    )


def _scaled(curve: Curve | None, figure: Figure) -> tuple[Point, ...]:
    scale = figure.scale
    points = () if curve is None else curve.points
    return tuple(Point(each.step, *(scale * value for value in (each.mean, each.low, each.high))) for each in points)


def _newest(curve: Curve | None, figure: Figure) -> str:
    return "" if curve is None or curve.newest is None else format_number(figure.scale * curve.newest[1])


def _rank(column: str) -> tuple[int, int, int, str]:
    part, _, name = column.partition("/")
    parts = ("train", "health", "evaluation", "validation")
    where = parts.index(part) if part in parts else len(parts)
    if part in PARTNERS and name in FIRST:
        return 0, FIRST.index(name), 0, column
    return 1 + where, 0 if name == "loss" else 1, name.count("/"), column
