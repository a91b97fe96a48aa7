"""The report's charts as SVG text, to stand inside a page: best of k, and drift by step.

Takes `metrics.json`'s content, returns charts that name nothing outside themselves. Methods differ by marker and
line as well as by colour (Okabe and Ito's). Drawn by matplotlib's Figure alone, without pyplot's global state; text
stays text. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.evaluate.report.table import method_name
from deltactl.progress import counted
from deltactl.tasks.known import task_of

PANEL_INCHES = (4.3, 3.2)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a page of tables and charts may do."""
Style = tuple[str, str, str]
"""Colour, marker and line."""
STYLES: Mapping[str, Style] = {
    "copy_last": ("#000000", "s", ":"),
    "deltatok": ("#009e73", "D", "-."),
    "deltaworld best": ("#0072b2", "o", "-"),
    "deltaworld mean": ("#56b4e9", "v", "--"),
    "dinoworld": ("#d55e00", "^", "--"),
    "present": ("#999999", "x", ":"),
}
"""Of each method and choice."""
HORIZON_STYLES = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#cc79a7", "D", ":"))


FEATURE_LOSS = "feature loss (smooth-L1)"


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    style: Style
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    """The 95 % intervals: x, low and high, where they are known."""


@dataclass(frozen=True)
class LineChart:
    """The same lines by the metric and by the feature loss, side by side."""

    title: str
    x_name: str
    note: str
    """What a reader should know, in a sentence."""
    panels: Mapping[str, tuple[Line, ...]]
    """The lines by what they are measured in; without the panels that would be empty."""


def line_charts(metrics: Mapping[str, Any]) -> list[LineChart]:
    """Return the charts that there is anything to draw in."""
    charts = (best_of_k_chart(metrics), drift_chart(metrics))
    return [chart for chart in charts if chart.panels]


def best_of_k_chart(metrics: Mapping[str, Any]) -> LineChart:
    """Return how the best sample improves with their number."""
    rows = metrics.get("best_of_k", [])
    horizons = sorted({row["horizon"] for row in rows})
    styles = dict(zip(horizons, itertools.cycle(HORIZON_STYLES), strict=False))
    series = {h: (f"{counted(h, 'frames')} ahead", style) for h, style in styles.items()}
    return LineChart(
        "Best of the first k samples",
        "k",
        "Choosing with the truth at hand gains by itself; the noise null in the table says how much of it is only "
        "that.",
        _panels(metrics, [(*series[row["horizon"]], row["k"], row) for row in rows]),
    )


def drift_chart(metrics: Mapping[str, Any]) -> LineChart:
    """Return how far each method is from the truth, step by step."""
    by_style: dict[str, list[Mapping[str, Any]]] = {style: [] for style in STYLES}
    for row in metrics.get("drift", []):
        by_style[f"{row['method']} {row['select']}" if row["select"] else row["method"]].append(row)
    return LineChart(
        "Drift of one long rollout",
        "step",
        "Distance to the truth at every step, the same measure for all methods; bands are 95 % intervals over videos.",
        _panels(
            metrics,
            [(method_name(row), STYLES[style], row["step"], row) for style, rows in by_style.items() for row in rows],
        ),
    )


def _panels(
    metrics: Mapping[str, Any], rows: Sequence[tuple[str, Style, float, Mapping[str, Any]]]
) -> dict[str, tuple[Line, ...]]:
    """Return the lines of both measures from rows of `metrics.json`, each with its line's name and style and its x."""
    panels = {}
    for key, y_name in (("value", task_of(metrics["dataset"]).metric_title), ("loss", FEATURE_LOSS)):
        lines: dict[tuple[str, Style], list[tuple[float, float]]] = {}
        bands: dict[tuple[str, Style], list[tuple[float, float, float]]] = {}
        for name, style, x, row in rows:
            if row[key] is not None:
                lines.setdefault((name, style), []).append((x, row[key]))
                figure = row.get("figures", {}).get(row["metric"] if key == "value" else key, {})
                if figure.get("low") is not None:
                    bands.setdefault((name, style), []).append((x, figure["low"], figure["high"]))
        if lines:
            panels[y_name] = tuple(
                Line(*line, tuple(points), tuple(bands.get(line, ()))) for line, points in lines.items()
            )
    return panels


def draw_chart(chart: LineChart) -> str:
    """Return the panels of a chart side by side as one `<svg>` element."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "deltactl", "font.size": 10}):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(chart.panels), PANEL_INCHES[1]), layout="constrained")
        every_axes = figure.subplots(1, len(chart.panels), squeeze=False)[0]
        for axes, (y_name, lines) in zip(every_axes, chart.panels.items(), strict=True):
            for line in lines:
                colour, marker, dashes = line.style
                if len(line.band) > 1:
                    axes.fill_between(*zip(*line.band, strict=True), color=colour, alpha=0.12, linewidth=0)
                axes.plot(
                    *zip(*line.points, strict=True),
                    color=colour,
                    marker=marker,
                    linestyle=dashes,
                    label=line.name,
                    markersize=5,
                )
            axes.set(title=chart.title, xlabel=chart.x_name, ylabel=y_name)
            axes.set_xticks(sorted({x for line in lines for x, _ in line.points}))
            axes.grid(color="#dddddd")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=8, framealpha=0.8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return inline_svg(text.getvalue(), chart.title)


def inline_svg(svg: str, title: str) -> str:
    """Return an SVG file as a named element of a page: without what names hosts, and with ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups
    prefix = title.replace(" ", "-").lower()
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
