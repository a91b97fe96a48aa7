"""What the columns of `metrics.csv` mean to one who looks at a run: unit, what is healthy, and what to say if not.

The healthy values are those of the table in docs/reproduce.md. They hold after the warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deltactl.progress import format_number
from deltactl.train.steps.alarm import HEALTHY_Z_SWAP, is_sick
from deltactl.watch.curves import Curve, Curves

MUCH_WAITING = 0.2
HARDLY_ABOVE_BEST = 1.01
OVERFITTED = 1.1
"""Validation loss over its least, above which it has risen."""
PARTS = ("train", "health", "validation", "evaluation")
"""The first part of a column's name, in the order in which they are shown."""


@dataclass(frozen=True)
class Figure:
    """One figure, whatever part of the run it is of."""

    name: str
    """The last part of its column's name."""
    healthy: str = ""
    unit: str = ""
    scale: float = 1.0
    """What values are multiplied with to be in `unit`."""
    is_sick: Callable[[float], bool] | None = None
    otherwise: str = ""
    """What it means when it is sick; empty where one reading alone does not say so."""

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        if not math.isfinite(value):
            return f"{value}"
        number = format_number(value * self.scale)
        return f"{number} {self.unit}" if self.unit else number


FIGURES = (
    Figure("loss", "falls"),
    Figure("lr", "rises over the warm-up"),
    Figure("samples_per_second", unit="samples/s"),
    Figure(
        "waiting",
        "near 0 %",
        "%",
        100,
        lambda value: value > MUCH_WAITING,
        "training waits for data: reading or decoding sets the pace",
    ),
    Figure("gradient_norm", "steady"),
    Figure("z_swap", f"above {HEALTHY_Z_SWAP}", is_sick=is_sick),  # ZSwapAlarm says what it means, and when
    Figure(
        "copy",
        "below 1",
        is_sick=lambda value: value >= 1,
        otherwise="the reconstruction is no better than the frame before",
    ),
    Figure(
        "token_rank",
        "well above 1",
        is_sick=lambda value: value < 1.5,
        otherwise="tokens use few of their directions: a world model finds little to predict",
    ),
    Figure("token_spread", "above 0"),
    Figure("token_nearest", "above 0"),
    Figure(
        "dead_dimensions",
        "near 0 %",
        "%",
        100,
        lambda value: value > 0.5,
        "most dimensions of the tokens are dead: a world model finds little to predict",
    ),
    Figure(
        "mean_over_best",
        "above 1",
        is_sick=lambda value: value < HARDLY_ABOVE_BEST,
        otherwise="the noise does not matter: all futures are the same",
    ),
    Figure("spread", "above 0", is_sick=lambda value: value <= 0, otherwise="all futures are the same"),
    Figure("miou", "rises", "%"),
    Figure("rmse", "falls", "m"),
    Figure("psnr", "rises", "dB"),
    Figure("plain_psnr", unit="dB"),
)
BY_NAME = {figure.name: figure for figure in FIGURES}


@dataclass(frozen=True)
class Reading:
    """The newest value of a column."""

    column: str
    figure: Figure
    step: int
    value: float
    sick: bool

    @property
    def text(self) -> str:
        """The value with its unit."""
        return self.figure.text(self.value)

    @property
    def verdict(self) -> str:
        """In a word: `ok`, `look`, or nothing where nothing can be said of it alone."""
        if self.sick:
            return "look"
        return "ok" if self.figure.is_sick is not None else ""


def figure_of(column: str) -> Figure:
    """Return what is known of a column's figure."""
    name = column.rpartition("/")[2]
    return BY_NAME.get(name, Figure(name))


def readings(curves: Curves, warmup_steps: int) -> list[Reading]:
    """Return the newest value of each column, in an order that people like."""
    found = []
    for column in sorted(curves.by_name, key=_rank):
        curve, figure = curves.by_name[column], figure_of(column)
        if curve.newest is not None:
            step, value = curve.newest
            judged = figure.is_sick is not None and step > warmup_steps
            sick = not math.isfinite(value) or (judged and figure.is_sick is not None and figure.is_sick(value))
            found.append(Reading(column, figure, step, value, sick))
    return found


def _rank(column: str) -> tuple[int, int, int, str]:
    part, _, name = column.partition("/")
    known = next((number for number, each in enumerate(FIGURES) if each.name == name), len(FIGURES))
    return PARTS.index(part) if part in PARTS else len(PARTS), name.count("/"), known, column


def warnings(found: Sequence[Reading], curves: Mapping[str, Curve], warmup_steps: int) -> list[str]:
    """Return a sentence for each thing that is not healthy now; one for a figure that is sick in several columns."""
    said: dict[str, str] = {}
    for each in found:
        why = each.figure.otherwise if math.isfinite(each.value) else "it is no finite number"
        if each.sick and why:
            said.setdefault(f"{each.figure.name} {why}", f"{each.column} is {each.text} at step {each.step:,}: {why}")
    loss = curves.get("validation/loss")
    if loss is not None and loss.newest is not None and loss.lowest is not None:
        (step, value), (best_step, best) = loss.newest, loss.lowest
        if best_step > warmup_steps and best > 0 and value > OVERFITTED * best:
            said["overfitted"] = (
                f"validation/loss is {format_number(value)} at step {step:,}, {value / best - 1:.0%} above its best "
                f"at step {best_step:,}: samples repeat too often; more clips, more views, or live training"
            )
    return list(said.values())
