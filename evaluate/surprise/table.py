"""The scores as a table, and what they come to: a line for each frame, in CSV and, where pyarrow is, in Parquet.

Columns: video, clip, view, frame, time, samples; then of each space, `features_…` and `tokens_…`: nearest, mean,
copy_last, typical, excess, rank, score, p (see `scoring.Surprise`). What is not known is empty.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from deltactl.evaluate.surprise.measure import FrameScore
from deltactl.evaluate.surprise.scoring import Surprise
from deltactl.fields import without_nan

Space = Literal["features", "tokens"]
SPACES: tuple[Space, ...] = ("features", "tokens")
MEASURES = ("nearest", "mean", "copy_last", "typical", "excess", "rank", "score", "p")
RANKED = ("nearest", "excess", "mean", "copy_last", "score")
"""What pairs of videos are told apart by: larger is more surprising."""
UNUSUAL = 0.05


@dataclass(frozen=True)
class Scored:
    """The scores of one clip, or of one video."""

    video: str
    clip: str
    view: int
    frames: tuple[FrameScore, ...]


def space_of(frame: FrameScore, space: Space) -> Surprise | None:
    """Return a frame's scores in one space."""
    return frame.features if space == "features" else frame.tokens


def rows_of(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return the table, in order."""
    rows = []
    for clip in scored:
        for frame in clip.frames:
            row: dict[str, Any] = {"video": clip.video, "clip": clip.clip, "view": clip.view}
            row |= {"frame": frame.frame, "time": frame.time, "samples": frame.tokens.samples}
            for space in SPACES:
                found = space_of(frame, space)
                for name in MEASURES:
                    row[f"{space}_{name}"] = None if found is None else without_nan(getattr(found, name))
            rows.append(row)
    return rows


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `scores.csv`, and `scores.parquet` where pyarrow is installed (extra `robotics`)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / "scores.csv").write_text(text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        import pyarrow
        import pyarrow.parquet

        whole = {"view", "frame", "samples", *(f"{space}_rank" for space in SPACES)}
        texts = {"video", "clip"}
        types = {
            name: pyarrow.string() if name in texts else pyarrow.int64() if name in whole else pyarrow.float64()
            for name in rows[0]
        }
        table = pyarrow.table({name: pyarrow.array([row[name] for row in rows], kind) for name, kind in types.items()})
        pyarrow.parquet.write_table(table, folder / "scores.parquet")


def values_of(rows: Sequence[Mapping[str, Any]], column: str) -> Float64[np.ndarray, " R"]:
    """Return a column as numbers, NaN where it is empty."""
    return np.array([math.nan if row[column] is None else row[column] for row in rows], np.float64)


def by_video(scored: Sequence[Scored]) -> dict[str, dict[str, list[float]]]:
    """Return what pairs are told apart by: the values of all frames of each video, by the name of the score."""
    found: dict[str, dict[str, list[float]]] = {}
    for clip in scored:
        of_video = found.setdefault(clip.video, {f"{space}_{name}": [] for space in SPACES for name in RANKED})
        for frame in clip.frames:
            for space in SPACES:
                surprise = space_of(frame, space)
                for name in RANKED:
                    value = math.nan if surprise is None else float(getattr(surprise, name))
                    of_video[f"{space}_{name}"].append(value)
    return found


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the scores come to in each space, and how far both agree."""
    samples = int(rows[0]["samples"])
    summary: dict[str, Any] = {"frames": len(rows), "clips": len({(row["clip"], row["view"]) for row in rows})}
    for space in SPACES:
        ranks = values_of(rows, f"{space}_rank")
        if np.isnan(ranks).any():
            continue
        of_space: dict[str, Any] = {}
        for name in ("nearest", "mean", "copy_last", "typical"):
            of_space[name] = without_nan(float(values_of(rows, f"{space}_{name}").mean()))
        p = values_of(rows, f"{space}_p")
        of_space["score"] = float(values_of(rows, f"{space}_score").mean())
        of_space["unusual"] = float((p <= UNUSUAL + 1e-12).mean()) if samples >= 1 / UNUSUAL - 1 else None
        of_space["ranks"] = np.bincount(ranks.astype(int), minlength=samples + 1).tolist()
        summary[space] = of_space
    if all(space in summary for space in SPACES) and len(rows) > 2:
        summary["agreement"] = {
            name: spearman(values_of(rows, f"features_{name}"), values_of(rows, f"tokens_{name}"))
            for name in ("nearest", "rank")
        }
    return summary


def spearman(one: Float64[np.ndarray, " R"], other: Float64[np.ndarray, " R"]) -> float | None:
    """Return the rank correlation of two columns; None where one of them does not vary."""
    places = [_places(values) for values in (one, other)]
    if any(np.ptp(each) == 0 for each in places):
        return None
    return float(np.corrcoef(places[0], places[1])[0, 1])


def _places(values: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, " R"]:
    """Return the place of each value in order, the mean place of those that are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], np.float64)
