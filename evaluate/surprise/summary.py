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
    table = number_table(
        "pairs told apart (95 % intervals)",
        ["set", "score", "over frames", "accuracy", "from", "to", "above copy last", "from", "to", "pairs"],
    )
    for each in found:
        above = (each["above_copy_last"], each["above_low"], each["above_high"])
        table.add_row(
            each["set"] or "all",
            each["score"].replace("_", " "),
            each["over"],
            *(f"{each[name]:.3f}" for name in ("accuracy", "low", "high")),
            *("" if value is None else f"{value:+.3f}" for value in above),
            str(each["pairs"]),
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
