"""The summary of scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from deltactl.evaluate.report.table import number_table
from deltactl.evaluate.surprise.table import SPACES, UNUSUAL
from deltactl.progress import counted


def summary_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the means in each space; of pairs, how often the impossible video is more surprising."""
    frames = counted(summary["frames"], "frames")
    title = f"{frames} of {counted(summary['clips'], 'clips')}, {summary['horizon']} ahead (smooth-L1)"
    agreement = summary.get("agreement", {}).get("nearest")
    table = number_table(
        title,
        ["space", "nearest", "mean", "copy last", "to each other", "mean score", f"p ≤ {UNUSUAL}"],
        caption=None if agreement is None else f"rank correlation of both spaces' nearest: {agreement:.2f}",
    )
    for space in SPACES:
        if (found := summary.get(space)) is not None:
            distances = (_number(found[name]) for name in ("nearest", "mean", "copy_last", "typical"))
            unusual = "" if found["unusual"] is None else f"{100 * found['unusual']:.1f} %"
            table.add_row(space, *distances, f"{found['score']:.3f}", unusual)
    yield table
    if summary.get("pairs"):
        yield _pairs(summary["pairs"])


def _pairs(found: list[Mapping[str, Any]]) -> Table:
    by = {(each["set"], each["score"], each["over"]): each for each in found}
    sets = list(dict.fromkeys(each["set"] for each in found))
    count = f"{found[0]['pairs']} pairs"
    table = number_table(
        f"{count} told apart, share (95 % interval); by the mean of the frames",
        ["method", *(each or "all" for each in sets), "above copy last", "by the largest"],
    )
    for score in dict.fromkeys(each["score"] for each in found):
        over_all = by[None, score, "mean"]
        above = over_all["above_copy_last"]
        ends = _ends(over_all["above_low"], over_all["above_high"], "+.2f")
        table.add_row(
            score.replace("_", " "),
            *(_share(by[each, score, "mean"]) for each in sets),
            "" if above is None else f"{above:+.2f}{ends}",
            _share(by[None, score, "max"]),
        )
    return table


def _share(each: Mapping[str, Any]) -> str:
    return f"{each['accuracy']:.2f}{_ends(each['low'], each['high'], '.2f')}"


def _ends(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
