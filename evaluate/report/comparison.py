"""Comparisons for people: tables for the terminal, and one page that needs nothing else.

Takes what `compare` found. The first table has the rows of all reports beside each other, the second by how much each
report is above the first one, the third what each cost to train.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rich.table import Table

from deltactl.evaluate.compare import Comparison, Report, RowName, figures_of
from deltactl.evaluate.report.charts import POLICY
from deltactl.evaluate.report.interval_chart import IntervalChart, chart_of, draw_intervals
from deltactl.evaluate.report.page import numbers_of, page_environment
from deltactl.evaluate.report.table import interval_text, method_name, number_table, over_videos, verdict
from deltactl.progress import format_hours

PREDICTORS = (("world", ("tokenizer", "world"), "deltaworld"), ("dinoworld", ("dinoworld",), "dinoworld"))
"""The networks that a report may be ranked by: the option that is there, what was trained for it, and the rows' method.
The first that all reports have counts."""


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Yield the tables that hold anything."""
    for build in (values_table, differences_table, cost_table):
        table = build(comparison)
        if table.row_count:
            yield table


def values_table(comparison: Comparison) -> Table:
    """Return the rows of all reports beside each other, by the first measure."""
    measure = comparison.measures[0]
    dataset = comparison.reports[0].metrics["dataset"]
    table = number_table(
        f"{dataset}: {measure['title']}, the last frame of each horizon",
        ["horizon", "method", *(report.name for report in comparison.reports)],
        caption="\n".join([over_videos(comparison.reports[0].metrics), *comparison.notes]),
    )
    previous = None
    for name in comparison.names:
        if previous not in (None, name[0]):
            table.add_section()
        previous = name[0]
        rows = [report.rows.get(name) for report in comparison.reports]
        figures = [None if row is None else figures_of(row).get(measure["name"]) for row in rows]
        table.add_row(str(name[0]), _title(name), *(interval_text(each, measure) for each in figures))
    return table


def differences_table(comparison: Comparison) -> Table:
    """Return by how much each report is above the first."""
    first = comparison.reports[0]
    table = number_table(
        f"less {first.name}, with paired 95 % intervals",
        ["report", "horizon", "method", *(each["title"] for each in comparison.measures), "verdict"],
        caption=over_videos(first.metrics),
    )
    previous = None
    for (report, name), figures in comparison.differences.items():
        if previous not in (None, report):
            table.add_section()
        previous = report
        cells = [interval_text(figures.get(each["name"]), each, signed=True) for each in comparison.measures]
        table.add_row(report, str(name[0]), _title(name), *cells, verdict(figures, comparison.measures))
    return table


def cost_table(comparison: Comparison) -> Table:
    """Return what each report's networks cost to train beside what they predict, the cheapest first.

    A table without rows where no report says what its networks cost.
    """
    measure = comparison.measures[0]
    known = [each for each in PREDICTORS if all(each[0] in networks_of(report) for report in comparison.reports)]
    _, trained, method = known[0] if known else PREDICTORS[0]
    names = [name for name in comparison.names if name[1] == method]
    table = number_table(
        f"cost and {measure['title']}",
        ["report", "device-hours", "on", *(f"{_title(name)}, {name[0]}" for name in names)],
        caption=f"hours × devices of training {' and '.join(trained)}, by their runs' own records",
    )
    costs = [(device_hours(report, trained), report) for report in comparison.reports]
    if not known or all(hours is None for hours, _ in costs):
        return table
    for hours, report in sorted(costs, key=lambda pair: math.inf if pair[0] is None else pair[0]):
        rows = [report.rows.get(name) for name in names]
        cells = [interval_text(None if row is None else figures_of(row).get(measure["name"]), measure) for row in rows]
        table.add_row(
            report.name, "not known" if hours is None else format_hours(hours), devices(report, trained), *cells
        )
    return table


def device_hours(report: Report, trained: Collection[str]) -> float | None:
    """Return the hours, times devices, that training some networks of a report took; None where one does not say."""
    hours = [networks_of(report).get(name, {}).get("device_hours") for name in trained]
    known = [float(each) for each in hours if isinstance(each, int | float)]
    return math.fsum(known) if len(known) == len(hours) else None


def devices(report: Report, trained: Collection[str]) -> str:
    """Return on what they were trained."""
    known = (networks_of(report).get(name, {}).get("device") for name in trained)
    return ", ".join(sorted({str(each) for each in known if each}))


def networks_of(report: Report) -> Mapping[str, Mapping[str, Any]]:
    """Return what a report says of its networks' training; nothing where an earlier version made it."""
    found = report.metrics.get("networks")
    return {name: each for name, each in found.items() if isinstance(each, Mapping)} if found else {}


def _title(name: RowName) -> str:
    return method_name({"method": name[1], "select": name[2]})


def comparison_chart(comparison: Comparison) -> IntervalChart:
    """Return the chart of the differences."""
    several = len(comparison.reports) > 2
    labels = [
        f"{report}: {_title(name)}, {name[0]} ahead" if several else f"{_title(name)}, {name[0]} ahead"
        for report, name in comparison.differences
    ]
    return chart_of(labels, list(comparison.differences.values()), comparison.measures)


def comparison_page(comparison: Comparison) -> str:
    """Return the comparison as one HTML page that needs nothing else."""
    chart = comparison_chart(comparison)
    return (
        page_environment()
        .get_template("comparison.html.jinja")
        .render(
            policy=POLICY,
            dataset=comparison.reports[0].metrics["dataset"],
            reports=comparison.reports,
            tables=[numbers_of(table) for table in comparison_tables(comparison)],
            chart=draw_intervals(chart) if chart.panels else "",
            note=chart.note,
        )
    )
