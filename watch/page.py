"""A run as one HTML page that needs nothing else and refreshes itself, in light and dark.

Takes moments of a run, returns the text of the page, from `page.html.jinja` beside this file: no script, charts as SVG
within, pictures as data. The template escapes all that is put in. A page has at most `MOST_CHARTS` charts, some 10 kB
each, and pictures of at most `WIDEST_PICTURE` pixels.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deltactl.locations import Location
from deltactl.progress import format_number
from deltactl.reading import METADATA
from deltactl.redaction import printable
from deltactl.watch.charts import Axis, Chart, charts_of
from deltactl.watch.curves import Point
from deltactl.watch.state import Moment

MOST_CHARTS = 40
WIDEST_PICTURE = 1400
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 8, 22
"""Around a chart's field, in units of its SVG."""
WIDTH, HEIGHT = 420, 190
MOST_TIPS = 60
"""Stretches of a chart that say their values under the pointer."""
MARK = '<meta name="generator" content="deltactl watch">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tip:
    """What is said where the pointer stands."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart's shapes, in units of its SVG."""

    chart: Chart
    is_log: bool
    line: str
    band: str
    """Lowest to highest of each stretch; empty where stretches are single steps."""
    marks: tuple[tuple[float, float], ...]
    labels: tuple[tuple[float, str], ...]
    last_step: str
    tips: tuple[Tip, ...]


class Page:
    """The page of one run; pictures that it has had already are not read again."""

    def __init__(self, every_seconds: float) -> None:
        self._every = max(1, round(every_seconds))
        environment = Environment(
            loader=FileSystemLoader(HERE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["printable"] = printable
        self._template = environment.get_template("page.html.jinja")
        self._pictures: dict[str, str] = {}

    def of(self, moment: Moment, *, refresh: bool) -> str:
        """Return the page; with `refresh` it asks for itself again."""
        charts = charts_of(moment.curves.by_name)
        known = self._pictures
        self._pictures = {str(each): known.get(str(each)) or picture_uri(each) for each in moment.pictures}
        return self._template.render(
            moment=moment,
            mark=MARK,
            policy=POLICY,
            refresh=self._every if refresh else None,
            drawings=[drawing(chart) for chart in charts[:MOST_CHARTS]],
            left_out=max(0, len(charts) - MOST_CHARTS),
            pictures=[(name, uri) for name, uri in self._pictures.items() if uri],
            size=(WIDTH, HEIGHT),
            field=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        )


def is_page(place: Location) -> bool:
    """Whether a file is such a page."""
    with place.open() as file:
        return MARK.encode() in file.read(4096)


def drawing(chart: Chart) -> Drawing:
    """Return the shapes of a chart."""
    axis, last = chart.axis(), chart.last_step
    line = [(_x(point.step, last), _y(point.mean, axis)) for point in chart.line]
    has_band = any(point.low < point.high for point in chart.line)
    if len(line) == 1:  # a dot
        line *= 2
    low = [(_x(point.step, last), _y(point.low, axis)) for point in chart.line]
    high = [(_x(point.step, last), _y(point.high, axis)) for point in chart.line]
    return Drawing(
        chart,
        axis.is_log,
        _path(line),
        f"{_path([*high, *reversed(low)])}Z" if has_band else "",
        tuple((_x(point.step, last), _y(point.mean, axis)) for point in chart.marks),
        tuple((_y(axis.at(place), axis), text) for place, text in axis.labels(4)),
        f"{last:,.0f}",
        tuple(_tips(chart)),
    )


def _tips(chart: Chart) -> list[Tip]:
    """Return what is said along the steps: the values of the points that lie nearest."""
    last = chart.last_step
    steps = sorted({point.step for point in chart.points})
    chosen = steps[:: math.ceil(len(steps) / MOST_TIPS)]
    edges = [
        LEFT,
        *(_x((one + other) / 2, last) for one, other in itertools.pairwise(chosen)),
        WIDTH - RIGHT,
    ]
    found = []
    for step, start, end in zip(chosen, edges, edges[1:], strict=False):
        values = [
            f"{name} {format_number(nearest.mean)}"
            for name, points in (("train", chart.line), ("validation", chart.marks))
            if (nearest := _nearest(points, step)) is not None
        ]
        found.append(Tip(start, round(end - start, 1), f"step {step:,.0f}: {', '.join(values)}"))
    return found


def _nearest(points: Sequence[Point], step: float) -> Point | None:
    return min(points, key=lambda point: abs(point.step - step), default=None)


def _x(step: float, last: float) -> float:
    return round(LEFT + step / last * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, axis: Axis) -> float:
    return round(TOP + (1 - axis.place(value)) * (HEIGHT - TOP - BOTTOM), 1)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places) if places else ""


def picture_uri(place: Location) -> str:
    """Return a picture as an address that holds it, scaled down where it is wide; empty where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(place.read_bytes(METADATA))) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):  # it is removed, or being written
        return ""
    image.thumbnail((WIDEST_PICTURE, WIDEST_PICTURE))
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
