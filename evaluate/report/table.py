"""The tables of an evaluation, for people: the paper's rows, then the small tables.

Takes `metrics.json`'s content, returns rich tables. The main table reports the last frame of each horizon, as the
paper does, beside the paper's values where the evaluation is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from deltactl.datasets.known import labelled_set
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


def tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the table of the rows, and those beyond the paper's protocol that hold anything."""
    yield rows_table(metrics)
    for build in (best_of_k_table, diversity_table, drift_table):
        table = build(metrics)
        if table.row_count:
            yield table


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
    table = _table(
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


def best_of_k_table(metrics: Mapping[str, Any]) -> Table:
    """Return how DeltaWorld's best sample improves with the number of samples to choose from."""
    table = _table("best of the first k samples", ["horizon", "k", task_of(metrics["dataset"]).metric_title, "loss"])
    for row in metrics.get("best_of_k", []):
        table.add_row(str(row["horizon"]), str(row["k"]), _number(row["value"], 2), _number(row["loss"]))
    return table


def diversity_table(metrics: Mapping[str, Any]) -> Table:
    """Return how far the samples are from each other, beside how far they are from the truth."""
    table = _table("diversity of the samples (smooth-L1)", ["horizon", "step", "to each other", "to the truth"])
    for row in metrics.get("diversity", []):
        table.add_row(str(row["horizon"]), str(row["step"]), _number(row["pairwise"]), _number(row["to_truth"]))
    return table


def drift_table(metrics: Mapping[str, Any]) -> Table:
    """Return how each method drifts from the truth, step by step, as far as the clips go."""
    rows = metrics.get("drift", [])
    steps = range(1, max((row["step"] for row in rows), default=0) + 1)
    table = _table("drift by step (smooth-L1)", ["method", "context", *(str(step) for step in steps)])
    by_method: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        by_method.setdefault((method_name(row), row["context"]), {})[row["step"]] = row["loss"]
    for (method, context), losses in by_method.items():
        table.add_row(method, str(context), *(_number(losses.get(step), 3) for step in steps))
    return table


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right")
    return table


def method_name(row: Mapping[str, Any]) -> str:
    """Return what people call the method of a row of `metrics.json`, with which of its samples it chose."""
    name = METHOD_NAMES[row["method"]]
    return f"{name}, {row['select']}" if row["method"] == "deltaworld" else name


def _number(value: float | None, digits: int = 4) -> str:
    """Return a number to so many decimals (losses are told to four of them), nothing for none."""
    return "" if value is None else f"{value:.{digits}f}"
