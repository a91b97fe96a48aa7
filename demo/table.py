"""What the demo ends with: its table, the coverage of the futures, and where to look."""

from __future__ import annotations

from deltactl.demo.run import DemoResult
from deltactl.progress import format_seconds

ROWS = (
    ("present", "present", None),
    ("DeltaTok", "deltatok", None),
    ("copy last", "copy_last", None),
    ("noise null, best of 20", "noise_null", "best"),
    ("DeltaWorld, mean of 20", "deltaworld", "mean"),
    ("DeltaWorld, best of 20", "deltaworld", "best"),
)
HORIZONS = (1, 3)


def result_lines(result: DemoResult) -> list[str]:
    """Return the lines to print."""
    return [
        f"{'mIoU (feature loss)':<24}{'1 frame':>18}{'3 frames':>18}",
        *(
            f"{name:<24}" + "".join(f"{_cell(result.rows, method, select, horizon):>18}" for horizon in HORIZONS)
            for name, method, select in ROWS
        ),
        "",
        *_coverage_lines(result),
        "",
        *_surprise_lines(result),
        "",
        f"report:   {result.report}",
        f"futures:  {result.futures}",
        f"surprise: {result.surprise}",
        f"all of it took {format_seconds(result.seconds)}",
    ]


def _cell(rows: list[dict[str, object]], method: str, select: str | None, horizon: int) -> str:
    for row in rows:
        if (row["method"], row["select"], row["horizon"], row["step"]) == (method, select, horizon, horizon):
            loss = row["loss"]
            return f"{row['value']:.1f}" + ("" if loss is None else f" ({loss:.3f})")
    return "–"


def _coverage_lines(result: DemoResult) -> list[str]:
    coverage = result.coverage
    return [
        f"Futures that really can happen ({coverage.truths} for each of {coverage.contexts} contexts, "
        f"{coverage.horizon} frames ahead): feature loss from each",
        f"  to its nearest sample {coverage.nearest_sample:.3f}, to the samples' mean {coverage.mean_sample:.3f}, "
        f"to the last frame {coverage.copy_last:.3f}",
        f"  (as many real futures as there are samples would come to {coverage.among_truths:.3f})",
    ]


def _surprise_lines(result: DemoResult) -> list[str]:
    found = result.vanished
    return [
        f"A film in which a shape vanishes: surprise at the first frame without it, at {found.seconds:.1f} s, "
        f"{found.there:.3f};",
        f"  at frames before it {found.others:.3f} at most, {found.typical:.3f} in the median",
    ]
