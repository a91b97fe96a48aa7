"""The tables of an evaluation, for people: the paper's rows, their intervals and differences, then the small tables.

Takes `metrics.json`'s content, returns rich tables. The main table reports the last frame of each horizon, as the
paper does, beside the paper's values where the evaluation is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from deltactl.datasets.known import labelled_set
from deltactl.evaluate.protocol.intervals import REPEATS
from deltactl.evaluate.protocol.paper import paper_value
from deltactl.progress import counted
from deltactl.tasks.known import task_of

METHOD_NAMES = {
    "present": "present",
    "copy_last": "copy last",
    "deltatok": "DeltaTok",
    "deltaworld": "DeltaWorld",
    "dinoworld": "DINO-world",
    "noise_null": "noise null",
}
FEW_VIDEOS = 20
"""With fewer, what intervals promise is not to be taken at its word."""


def tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the table of the rows, and those beyond the paper's protocol that hold anything."""
    yield rows_table(metrics)
    yield from interval_tables(metrics)
    yield from small_tables(metrics)


def interval_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return the tables of intervals that hold anything."""
    return [table for build in (differences_table, intervals_table) if (table := build(metrics)).row_count]


def small_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return the tables beyond the paper's protocol that hold anything."""
    return [table for build in (best_of_k_table, diversity_table, drift_table) if (table := build(metrics)).row_count]


def rows_table(metrics: Mapping[str, Any]) -> Table:
    """Return the paper's rows: our value and the feature loss, beside the paper's values where they compare.

    They do where `metrics` lists no `departures` from the paper's evaluation, or where `against` asks for them.
    """
    dataset = metrics["dataset"]
    departures = metrics.get("departures", ["how it was made is not known"])
    beside = not departures or metrics.get("against") == "paper"
    note = f"{counted(metrics['clips'], 'clips')} at {metrics['size']} px, context {metrics['context']}"
    if departures:
        compares = labelled_set(dataset).paper is not None
        end = "" if beside or not compares else "\n--against paper puts the published values beside these all the same"
        note += f"\nnot the published evaluation: {'; '.join(departures)}{end}"
    table = number_table(
        f"{labelled_set(dataset).name}: the last frame of each horizon",
        ["horizon", "method", task_of(dataset).metric_title, *(["published", "difference"] if beside else []), "loss"],
        caption=note,
    )
    previous = None
    for row in metrics["rows"]:
        if row["step"] != row["horizon"]:
            continue
        if previous not in (None, row["horizon"]):
            table.add_section()
        previous = row["horizon"]
        published = paper_value(dataset, row["method"], row["select"] or "", row["horizon"])
        known = published is not None and row["value"] is not None
        compared = [_number(published, 2), f"{row['value'] - published:+.2f}" if known else ""] if beside else []
        table.add_row(str(row["horizon"]), method_name(row), _number(row["value"], 2), *compared, _number(row["loss"]))
    return table


def differences_table(metrics: Mapping[str, Any]) -> Table:
    """Return by how much predictions are above what they must beat, and whether other videos could say otherwise."""
    measures = single_measures(metrics)
    table = number_table(
        "differences of rows, with paired 95 % intervals",
        ["horizon", "method", *(measure["title"] for measure in measures), "verdict"],
        caption=over_videos(metrics),
    )
    table.pad_edge = False  # fits a terminal of 80 columns
    for row in metrics.get("differences", []):
        cells = [interval_text(row["figures"].get(each["name"]), each, signed=True) for each in measures]
        table.add_row(str(row["horizon"]), minus(row), *cells, verdict(row["figures"], measures))
    return table


def intervals_table(metrics: Mapping[str, Any]) -> Table:
    """Return all that is measured of the last frame of each horizon, with its interval."""
    measures = single_measures(metrics)
    table = number_table(
        "95 % intervals: the last frame of each horizon",
        ["horizon", "method", *(measure["title"] for measure in measures)],
        caption=over_videos(metrics),
    )
    for row in metrics["rows"] if measures else []:
        if row["step"] == row["horizon"]:
            cells = [interval_text(row["figures"].get(each["name"]), each) for each in measures]
            table.add_row(str(row["horizon"]), method_name(row), *cells)
    return table


def class_tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table for each measure that has a value for every class; classes that are nowhere are left out."""
    for measure in metrics.get("measures", []):
        rows = [row for row in metrics["per_class"] if row["measure"] == measure["name"]]
        if not rows:
            continue
        columns = [f"{method_name(row)}, {row['horizon']}" for row in rows]
        note = "by method and horizon; metrics.json has the intervals"
        table = number_table(f"{measure['title']} by class", ["class", *columns], caption=note)
        for number, name in enumerate(measure["classes"]):
            values = [row["values"][number] for row in rows]
            if any(value is not None for value in values):
                table.add_row(name, *(_number(value, 1) for value in values))
        yield table


def single_measures(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is measured once for a row, but for the loss, which the main table has; nothing in old files."""
    return [each for each in metrics.get("measures", []) if not each["classes"] and each["name"] != "loss"]


def interval_text(figure: Mapping[str, Any] | None, measure: Mapping[str, Any], *, signed: bool = False) -> str:
    """Return `51.20 [48.90, 53.40]`; from several seeds the mean over these, with the interval over them, too."""
    if figure is None:
        return ""
    value, ends = shown_figure(figure)
    form = f"{'+' if signed else ''}.{digits_of(measure)}f"
    return f"{value:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


def shown_figure(figure: Mapping[str, Any]) -> tuple[float, tuple[float, float] | None]:
    """Return the value of a figure and the ends of its interval, over seeds where there are several."""
    of = figure.get("seeds") or figure
    value = of["mean"] if "seeds" in figure else of["value"]
    return value, None if of["low"] is None else (of["low"], of["high"])


def digits_of(measure: Mapping[str, Any]) -> int:
    """Return to how many decimals a measure is told: two of percent and metres, four of distances of features."""
    return 2 if measure["title"].endswith((", %", ", m")) else 4 if measure["name"] in ("cosine", "loss") else 3


def verdict(figures: Mapping[str, Any], measures: Sequence[Mapping[str, Any]]) -> str:
    """Return whether a difference is `better` or `worse` by the first measure that there is; `open` if 0 is within."""
    measure = next((each for each in measures if each["name"] in figures), None)
    if measure is None:
        return ""
    _, ends = shown_figure(figures[measure["name"]])
    if ends is None or ends[0] <= 0 <= ends[1]:
        return "open"
    return "better" if (ends[0] > 0) == (measure["better"] == "higher") else "worse"


def minus(row: Mapping[str, Any]) -> str:
    """Return what a difference of two rows is called."""
    return f"{method_name(row)} − {method_name({'method': row['minus'], 'select': row['minus_select']})}"


def over_videos(metrics: Mapping[str, Any]) -> str:
    """Return what intervals are over, as a note."""
    videos, seeds = metrics.get("videos", 0), metrics.get("seeds", [])
    note = f"over {counted(videos, 'videos')}, drawn anew {REPEATS:,} times"
    if len(seeds) > 1:
        note += f", and over {len(seeds)} seeds of the samples: what DeltaWorld predicts is the mean over these"
    few = "" if videos >= FEW_VIDEOS else f"\n{counted(videos, 'videos')} are few: such intervals are rough"
    return note + few


def best_of_k_table(metrics: Mapping[str, Any]) -> Table:
    """Return how DeltaWorld's best sample improves with the number of samples to choose from."""
    table = number_table(
        "best of the first k samples", ["horizon", "k", task_of(metrics["dataset"]).metric_title, "loss"]
    )
    for row in metrics.get("best_of_k", []):
        table.add_row(str(row["horizon"]), str(row["k"]), _number(row["value"], 2), _number(row["loss"]))
    return table


def diversity_table(metrics: Mapping[str, Any]) -> Table:
    """Return how far the samples are from each other, beside how far they are from the truth."""
    table = number_table("diversity of the samples (smooth-L1)", ["horizon", "step", "to each other", "to the truth"])
    for row in metrics.get("diversity", []):
        table.add_row(str(row["horizon"]), str(row["step"]), _number(row["pairwise"]), _number(row["to_truth"]))
    return table


def drift_table(metrics: Mapping[str, Any]) -> Table:
    """Return how each method drifts from the truth, step by step, as far as the clips go."""
    rows = metrics.get("drift", [])
    steps = range(1, max((row["step"] for row in rows), default=0) + 1)
    table = number_table("drift by step (smooth-L1)", ["method", "context", *(str(step) for step in steps)])
    by_method: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        by_method.setdefault((method_name(row), row["context"]), {})[row["step"]] = row["loss"]
    for (method, context), losses in by_method.items():
        table.add_row(method, str(context), *(_number(losses.get(step), 3) for step in steps))
    return table


def number_table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    """Return a table without rows; numbers are set to the right."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in columns:
        left = name in ("report", "method", "class", "verdict", "on")
        # Folded in a narrow terminal, since letters that are cut are lost.
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table


def method_name(row: Mapping[str, Any]) -> str:
    """Return what people call the method of a row of `metrics.json`, with which of its samples it chose."""
    name = METHOD_NAMES[row["method"]]
    return f"{name}, {row['select']}" if row["method"] == "deltaworld" else name


def _number(value: float | None, digits: int = 4) -> str:
    """Return a number to so many decimals (losses are told to four of them), nothing for none."""
    return "" if value is None else f"{value:.{digits}f}"
