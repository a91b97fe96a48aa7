"""`metrics.json`: all numbers of an evaluation, for programs.

    {"dataset", "size", "context", "samples", "seed", "encoding", "clips", "quarantined", "warnings",
      "departures", "against",
     "rows":      [{"method", "horizon", "step", "select", "metric", "value", "loss"}],
     "best_of_k": [{"method", "horizon", "k", "metric", "value", "loss"}],
     "diversity": [{"horizon", "step", "pairwise", "to_truth"}],
     "drift":     [{"method", "select", "context", "step", "metric", "value", "loss"}]}

`departures` are phrases that say in what the evaluation is not the paper's; `against` is `paper` where its table stands
beside the paper's values all the same. `warnings` are sentences about networks that were trained unlike they are used
here.

mIoU is in percent, RMSE in metres. `rows` has one row a step, `value` and `metric` null where no frame of that step has
labels; its loss is log cosh for present and DeltaTok, smooth-L1 (beta 0.1) for the others. `best_of_k` is about the
last frame of each horizon. `drift` is one rollout as long as the clip allows, its loss and the distances of
`diversity` smooth-L1 for all methods, which makes them comparable. Equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import labelled_set
from deltactl.evaluate.protocol.predictions import Row, Table
from deltactl.evaluate.protocol.tally import Tally
from deltactl.tasks.known import task_of

METHODS = ("present", "copy_last", "deltatok", "deltaworld", "dinoworld", "noise_null")
"""In the order of the tables: the bounds, the reconstruction, the predictions, and what keeps the best of k honest."""


def metrics_json(
    config: EvaluateConfig, tally: Tally, *, quarantined: int, warnings: Sequence[str], departures: Sequence[str]
) -> dict[str, Any]:
    """Return the content of `metrics.json`; `quarantined` is the number of clips that could not be used."""
    dataset = labelled_set(config.dataset).said_as
    content: dict[str, Any] = {
        "dataset": dataset,
        "size": config.size.value,
        "context": config.context,
        "samples": config.samples,
        "seed": config.seed,
        "encoding": config.encoding,
        "clips": tally.clips,
        "quarantined": quarantined,
        "warnings": list(warnings),
        "rows": [
            {
                "method": row.method,
                "horizon": row.horizon,
                "step": row.step,
                "select": row.select or None,
                **_numbers(dataset, tally, row),
            }
            for row in table_rows(tally, "rows")
        ],
    }
    if config.extras:
        content["best_of_k"] = [
            {"method": row.method, "horizon": row.horizon, "k": row.k, **_numbers(dataset, tally, row)}
            for row in table_rows(tally, "best_of_k")
        ]
        content["diversity"] = diversity(tally)
        content["drift"] = [
            {
                "method": row.method,
                "select": row.select or None,
                "context": 1 if row.method == "deltatok" else config.context,
                "step": row.step,
                **_numbers(dataset, tally, row),
            }
            for row in table_rows(tally, "drift")
        ]
    return {**content, "departures": list(departures), "against": config.against}


def table_rows(tally: Tally, table: Table) -> list[Row]:
    """Return the rows of a table, in the order in which they are read."""
    rows = [row for row in tally.losses if row.table == table]
    return sorted(rows, key=lambda row: (row.horizon, METHODS.index(row.method), row.select, row.k, row.step))


def diversity(tally: Tally) -> list[dict[str, Any]]:
    """Return, by horizon and step, how far the samples are from each other and from the truth."""
    return [
        {
            "horizon": horizon,
            "step": step,
            "pairwise": tally.mean(tally.pairwise[horizon, step]),
            "to_truth": tally.mean(tally.to_truth[horizon, step]),
        }
        for horizon, step in sorted(tally.pairwise)
    ]


def _numbers(dataset: str, tally: Tally, row: Row) -> dict[str, Any]:
    value = tally.value(row)
    return {"metric": None if value is None else task_of(dataset).metric, "value": value, "loss": tally.loss(row)}
