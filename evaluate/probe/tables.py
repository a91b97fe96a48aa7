"""What a probe said, as CSV files and as tables for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from deltactl.evaluate.probe.outcomes import Outcome, Outcomes, Samples
from deltactl.evaluate.report.table import number_table
from deltactl.progress import counted
from deltactl.redaction import printable

PREDICTIONS, VIDEOS, CONFUSION = "predictions.csv", "videos.csv", "confusion.csv"
SHOWN_CLASSES = 20
"""Classes that a terminal shows all of; of more it shows the least and the most often right ones."""


# --- files -----------------------------------------------------------------------------------------------------------


def write_tables(
    folder: Path,
    outcomes: Outcomes,
    samples: Samples,
    classes: Sequence[str],
    confused: Sequence[tuple[int, int, int]],
) -> None:
    """Write a line for each clip under each view, for each video, and for each pair of classes that occurs."""
    of_samples = outcomes.samples
    order = of_samples.first.argsort()
    rows = _rows(of_samples, samples, classes)
    clips = [(samples.clips[first], samples.videos[first], samples.views[first]) for first in of_samples.first.tolist()]
    headings = ("true", "predicted", "probability", "rank")
    _write(folder / PREDICTIONS, ("clip", "video", "view", *headings), ((*clips[each], *rows[each]) for each in order))
    of_videos = outcomes.videos
    names = [samples.videos[first] for first in of_videos.first.tolist()]
    _write(
        folder / VIDEOS,
        ("video", *headings),
        ((name, *row) for name, row in zip(names, _rows(of_videos, samples, classes), strict=True)),
    )
    _write(
        folder / CONFUSION,
        ("true", "predicted", "videos"),
        ((classes[true], classes[predicted], count) for true, predicted, count in confused),
    )


def _rows(outcome: Outcome, samples: Samples, classes: Sequence[str]) -> list[tuple[str, str, str, int]]:
    truth = samples.truth[outcome.first].tolist()
    return [
        (classes[true], classes[predicted], f"{probability:.6f}", rank)
        for true, predicted, probability, rank in zip(
            truth, outcome.predicted.tolist(), outcome.probability.tolist(), outcome.rank.tolist(), strict=True
        )
    ]


def _write(file: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


# --- terminal --------------------------------------------------------------------------------------------------------


def summary_tables(facts: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the accuracies with what they stand beside, then those of classes."""
    by_video, by_clip = facts["accuracy"]["by_video"], facts["accuracy"]["by_clip"]
    counts = counted(by_video["count"], "videos"), counted(by_clip["count"], "clips")
    trained, l2 = facts["trained"], facts["l2"]
    fitted = "a probe of before" if trained is None else f"{counted(trained['videos'], 'videos')} trained"
    how = f"{fitted}, L2 {l2['value']:g}{' chosen on some of them' if l2['tried'] else ''}"
    title = f"{facts['label']}: {counted(len(facts['classes']), 'classes')} from {facts['inputs']}"
    table = number_table(title, ["%", f"of {counts[0]}", f"of {counts[1]}"], caption=how)
    table.columns[0].justify = "left"
    for name, words in (("top1", "right (95 % interval)"), ("top5", "among the first five")):
        if name in by_video:
            table.add_row(words, _share(by_video[name]), _share(by_clip[name]))
            table.add_row("  by chance", *(f"{100 * each['chance'][name]:.1f}" for each in (by_video, by_clip)))
    table.add_row("always the commonest class", *(f"{100 * each['majority']:.1f}" for each in (by_video, by_clip)))
    table.add_row("mean over classes", f"{100 * by_video['mean_over_classes']:.1f}", "")
    yield table
    yield _class_table(facts["classes"])


def _class_table(classes: Sequence[Mapping[str, Any]]) -> Table:
    there = [each for each in classes if each["accuracy"] is not None]
    title, chosen, absent = "right by class, %", list(there), len(classes) - len(there)
    if len(there) > SHOWN_CLASSES:
        order = sorted(there, key=lambda each: (each["accuracy"], -each["videos"]))
        chosen = [*order[: SHOWN_CLASSES // 2], *order[-SHOWN_CLASSES // 2 :]]
        title = f"right by class, %: the {SHOWN_CLASSES // 2} least and most often right of {len(there)}"
    note = f"of {counted(absent, 'classes')} no video is held out" if absent else None
    table = number_table(title, ["class", "right (95 % interval)", "videos", "that trained"], caption=note)
    for each in chosen:
        numbers = str(each["videos"]), str(each["training_videos"])
        table.add_row(escape(printable(each["class"])), _share(each), *numbers)
    return table


def _share(each: Mapping[str, Any]) -> str:
    ends = "" if each["low"] is None else f" ({100 * each['low']:.1f} to {100 * each['high']:.1f})"
    return f"{100 * each['accuracy']:.1f}{ends}"
