"""The report's charts as SVG text, to stand inside a page: best of k, and drift by step.

In comes `metrics.json`'s content, out come charts that name nothing outside themselves. Methods differ by marker and
line as well as by colour (Okabe and Ito's). Drawn by matplotlib's Figure alone, without pyplot's global state; text
stays text. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deltactl.evaluate.table import METHOD_NAMES
from deltactl.tasks.known import task_of

PANEL_INCHES = (4.3, 3.2)
STYLES: Mapping[str, tuple[str, str, str]] = {
    "copy_last": ("#000000", "s", ":"),
    "deltatok": ("#009e73", "D", "-."),
    "deltaworld best": ("#0072b2", "o", "-"),
    "deltaworld mean": ("#56b4e9", "v", "--"),
    "dinoworld": ("#d55e00", "^", "--"),
    "present": ("#999999", "x", ":"),
}
"""Colour, marker and line of each method and choice."""
HORIZON_STYLES = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#cc79a7", "D", ":"))


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: tuple[str, str, str]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    x_name: str
    y_name: str
    lines: tuple[Line, ...]


def best_of_k_panels(metrics: Mapping[str, Any]) -> list[Panel]:
    """Return how the best sample improves with their number: in the metric, and in the feature loss."""
    return [
        panel
        for key, name in (("value", task_of(metrics["dataset"]).metric_title), ("loss", "feature loss (smooth-L1)"))
        if (panel := _best_of_k(metrics, key, name)).lines
    ]


def drift_panels(metrics: Mapping[str, Any]) -> list[Panel]:
    """Return how far each method is from the truth, step by step."""
    return [
        panel
        for key, name in (("value", task_of(metrics["dataset"]).metric_title), ("loss", "feature loss (smooth-L1)"))
        if (panel := _drift(metrics, key, name)).lines
    ]


def draw_panels(panels: list[Panel]) -> str:
    """Return the charts side by side as one `<svg>` element."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "deltactl", "font.size": 10}):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for line in panel.lines:
                colour, marker, dashes = line.style
                xs, ys = zip(*line.points, strict=True)
                axes.plot(xs, ys, color=colour, marker=marker, linestyle=dashes, label=line.name, markersize=5)
            axes.set(title=panel.title, xlabel=panel.x_name, ylabel=panel.y_name)
            axes.set_xticks(sorted({x for line in panel.lines for x, _ in line.points}))
            axes.grid(color="#dddddd")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=8, framealpha=0.8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue(), prefix=panels[0].title.replace(" ", "-").lower())


def _inline(svg: str, prefix: str) -> str:
    """Return an SVG file as an element of a page: without what names hosts, and with ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _best_of_k(metrics: Mapping[str, Any], key: str, name: str) -> Panel:
    rows = [row for row in metrics.get("best_of_k", []) if row[key] is not None]
    horizons = sorted({row["horizon"] for row in rows})
    lines = tuple(
        Line(
            f"{horizon} frame{'s' if horizon > 1 else ''} ahead",
            tuple((row["k"], row[key]) for row in rows if row["horizon"] == horizon),
            HORIZON_STYLES[number % len(HORIZON_STYLES)],
        )
        for number, horizon in enumerate(horizons)
    )
    return Panel("Best of the first k samples", "k", name, lines)


def _drift(metrics: Mapping[str, Any], key: str, name: str) -> Panel:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in metrics.get("drift", []):
        if row[key] is not None:
            style = f"{row['method']} {row['select']}" if row["select"] else row["method"]
            points.setdefault(style, []).append((row["step"], row[key]))
    lines = tuple(Line(_title(style), tuple(each), STYLES[style]) for style, each in _ordered(points))
    return Panel("Drift of one long rollout", "step", name, lines)


def _ordered(points: Mapping[str, list[tuple[float, float]]]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for style in STYLES:
        if style in points:
            yield style, points[style]


def _title(style: str) -> str:
    method, _, select = style.partition(" ")
    return f"{METHOD_NAMES[method]}, {select}" if select else METHOD_NAMES[method]
