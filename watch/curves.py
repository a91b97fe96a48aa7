"""Curves of figures over steps, thinned out as they grow, so that a long run takes no more memory than a short one.

Takes rows of a run's `metrics.csv` one after the other. A curve keeps at most `MOST_POINTS` points, each the mean of
the figures in a stretch of steps, with the lowest and the highest; where there would be more, stretches double.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_POINTS = 480
"""More than a chart shows beside each other."""
MOST_CURVES = 500


@dataclass(frozen=True)
class Point:
    """A curve over a stretch of steps."""

    step: float
    """Their middle, of those that have a figure."""
    mean: float
    low: float
    high: float


@dataclass
class _Stretch:
    count: int = 0
    steps: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def merge(self, other: _Stretch) -> None:
        self.count += other.count
        self.steps += other.steps
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Curve:
    """One figure over the steps."""

    newest: tuple[int, float] | None = None
    """Step and value of the last row that has the figure, finite or not."""
    lowest: tuple[int, float] | None = None
    """Step and value of the least one."""
    _width: int = 1
    _stretches: dict[int, _Stretch] = field(default_factory=dict)

    def add(self, step: int, value: float) -> None:
        """Take a figure of a step that is not below those before; a second one of the same step replaces the first."""
        again = self.newest is not None and self.newest[0] == step and math.isfinite(self.newest[1])
        before = self.newest[1] if again and self.newest is not None else 0.0
        self.newest = step, value
        if not math.isfinite(value):
            return
        if self.lowest is None or value < self.lowest[1]:
            self.lowest = step, value
        stretch = self._stretches.setdefault(step // self._width, _Stretch())
        stretch.merge(_Stretch(0 if again else 1, 0 if again else step, value - before, value, value))
        while len(self._stretches) > MOST_POINTS:
            self._width *= 2
            merged: dict[int, _Stretch] = {}
            for number, each in self._stretches.items():
                merged.setdefault(number // 2, _Stretch()).merge(each)
            self._stretches = merged

    def forget_from(self, step: int) -> None:
        """Drop what lies at this step and behind it; a stretch that begins before it stays."""
        self._stretches = {number: each for number, each in self._stretches.items() if number * self._width < step}
        if self.newest is not None and self.newest[0] >= step:
            points = self.points
            self.newest = (round(points[-1].step), points[-1].mean) if points else None
        if self.lowest is not None and self.lowest[0] >= step:
            least = min(self.points, key=lambda point: point.low, default=None)
            self.lowest = None if least is None else (round(least.step), least.low)

    @property
    def points(self) -> list[Point]:
        """The curve, by step; without what is not finite."""
        return [
            Point(each.steps / each.count, each.total / each.count, each.low, each.high)
            for each in self._stretches.values()
        ]


@dataclass
class Curves:
    """All figures of a run by the names of their columns."""

    by_name: dict[str, Curve] = field(default_factory=dict)
    step: int | None = None
    """The last one that has a row."""

    def clear(self) -> None:
        """Forget everything."""
        self.by_name.clear()
        self.step = None

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Take a row. One of an earlier step is that of a run that was gone on with: what lies behind it is dropped."""
        if self.step is not None and step < self.step:
            for curve in self.by_name.values():
                curve.forget_from(step)
        self.step = step
        for name, value in figures.items():
            if name in self.by_name or len(self.by_name) < MOST_CURVES:
                self.by_name.setdefault(name, Curve()).add(step, value)

    def newest(self, name: str) -> float | None:
        """Return the last value of a figure; None where there is none."""
        curve = self.by_name.get(name)
        return None if curve is None or curve.newest is None else curve.newest[1]
