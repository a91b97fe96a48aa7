"""Numbers with their intervals as a chart: one line a number, side by side for each measure, as SVG text.

Takes the differences of rows (of one report, or of several), returns one `<svg>` element to stand inside a page. A
line that does not touch zero is drawn in colour, blue where the first of both is better, orange where it is worse, and
its marker differs too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.evaluate.report.charts import inline_svg
from deltactl.evaluate.report.table import minus, shown_figure, single_measures, verdict

PANEL_INCHES = 4.2
LINE_INCHES = 0.26
STYLES: Mapping[str, tuple[str, str]] = {
    "better": ("#0072b2", "o"),
    "worse": ("#b84f00", "s"),
    "open": ("#777777", "D"),
    "": ("#777777", "D"),
}
"""Colour and marker by verdict."""


@dataclass(frozen=True)
class Bar:
    """One number with its interval."""

    label: str
    value: float
    ends: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class IntervalChart:
    """The same lines for several measures; a line that a measure lacks is left out of its panel."""

    title: str
    panels: Mapping[str, tuple[Bar, ...]]
    """By the measure's title."""
    note: str = "Blue circle: better. Orange square: worse. Grey diamond: zero lies within, so it stays open."


def difference_charts(metrics: Mapping[str, Any]) -> list[IntervalChart]:
    """Return the chart of the differences of a report's rows, nothing where there are none.

    An evaluation without extras has no charts, and does not load what draws them.
    """
    rows = metrics.get("differences", []) if "drift" in metrics else []
    labels = [f"{minus(row)}, {row['horizon']} ahead" for row in rows]
    chart = chart_of(labels, [row["figures"] for row in rows], single_measures(metrics))
    return [chart] if chart.panels else []


def chart_of(
    labels: Sequence[str], figures: Sequence[Mapping[str, Any]], measures: Sequence[Mapping[str, Any]]
) -> IntervalChart:
    """Return the chart of differences, one label each, whose `figures` are as `metrics.json` has them."""
    panels = {}
    for measure in measures:
        bars = []
        for label, each in zip(labels, figures, strict=True):
            if measure["name"] in each:
                value, ends = shown_figure(each[measure["name"]])
                bars.append(Bar(label, value, ends, verdict(each, [measure])))
        if bars:
            panels[str(measure["title"])] = tuple(bars)
    return IntervalChart("Differences", panels)


def draw_intervals(chart: IntervalChart) -> str:
    """Return a chart as one `<svg>` element; the same numbers give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(bar.label for bars in chart.panels.values() for bar in bars))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "deltactl", "font.size": 10}):
        size = PANEL_INCHES * len(chart.panels), LINE_INCHES * len(labels) + 0.9
        figure = Figure(figsize=size, layout="constrained")
        every_axes = figure.subplots(1, len(chart.panels), squeeze=False, sharey=True)[0]
        for axes, (title, bars) in zip(every_axes, chart.panels.items(), strict=True):
            axes.axvline(0, color="#333333", linewidth=1)
            for bar in bars:
                colour, marker = STYLES[bar.verdict]
                place = labels.index(bar.label)
                if bar.ends is not None:
                    axes.plot(bar.ends, (place, place), color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot(bar.value, place, color=colour, marker=marker, markersize=6)
            axes.set(xlabel=f"difference in {title}", ylim=(len(labels) - 0.5, -0.5))
            axes.set_yticks(range(len(labels)), labels)
            axes.grid(color="#dddddd", axis="x")
            axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return inline_svg(text.getvalue(), chart.title)
