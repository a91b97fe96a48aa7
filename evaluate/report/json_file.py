"""`metrics.json`: all numbers of an evaluation, for programs.

    {"dataset", "size", "context", "samples", "seed", "encoding", "clips", "quarantined", "warnings",
      "departures", "against", "frames", "seeds", "videos", "clips_sha256",
     "rows":      [{"method", "horizon", "step", "select", "metric", "value", "loss", "figures"}],
     "best_of_k": [{"method", "horizon", "k", "metric", "value", "loss", "figures"}],
     "diversity": [{"horizon", "step", "pairwise", "to_truth"}],
     "drift":     [{"method", "select", "context", "step", "metric", "value", "loss", "figures"}],
     "networks": {NAME: {"device_hours", "device", "devices"}},
     "measures":  [{"name", "title", "better", "classes"}],
     "differences": [{"horizon", "method", "select", "minus", "minus_select", "figures"}],
     "per_class": [{"measure", "method", "horizon", "select", "values", "low", "high"}]}

`departures` are phrases that say in what the evaluation is not the paper's; `against` is `paper` where its table stands
beside the paper's values all the same. `warnings` are sentences about networks that were trained unlike they are used
here.

mIoU is in percent, RMSE in metres. `rows` has one row a step, `value` and `metric` null where no frame of that step has
labels; its loss is log cosh for present and DeltaTok, smooth-L1 (beta 0.1) for the others. `best_of_k` is about the
last frame of each horizon. `drift` is one rollout as long as the clip allows, its loss and the distances of
`diversity` smooth-L1 for all methods, which makes them comparable.

`figures` has each of the `measures` by name, with its 95 % interval over videos (`protocol.figures`), and from several
seeds those of each. `networks` says what training each took. `differences` are between the last frames of two rows,
with paired intervals. `per_class` is about the last frames too. Equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import labelled_set
from deltactl.evaluate.protocol.figures import Figures, compared_rows, measures_of
from deltactl.evaluate.protocol.predictions import Row, Table
from deltactl.evaluate.protocol.tally import Tally
from deltactl.evaluate.protocol.videos import VideoSums, clips_hash, video_sums
from deltactl.tasks.known import task_of

METHODS = ("present", "copy_last", "deltatok", "deltaworld", "dinoworld", "noise_null")
"""In the order of the tables: the bounds, the reconstruction, the predictions, and what keeps the best of k honest."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of an evaluation, as they come to be written."""

    tally: Tally
    sums: VideoSums
    """Of the rows that are written, and of those from further seeds."""
    figures: Figures

    @classmethod
    def of(cls, config: EvaluateConfig, tally: Tally, names: tuple[str, ...] = ()) -> Numbers:
        """Return what a tally comes to; `names` are those of the classes, as far as they are known."""
        sums = video_sums(tally, sorted(tally.losses))
        # Told by its file, a set says more than by its name: which classes are movable.
        measures = measures_of(labelled_set(config.dataset), names, labelled=bool(tally.metrics) and sums.summed)
        return cls(tally, sums, Figures(sums, measures, len(config.sampler_seeds)))

    def row(self, dataset: str, row: Row) -> dict[str, Any]:
        """Return what is said of a row."""
        value = self.tally.value(row)
        task = task_of(dataset)
        loss = self.tally.loss(row)
        figures = {name: figure.to_json() for name, figure in self.figures.of(row).items()}
        # The published numbers are rounded once; a figure repeats them to the last digit.
        for name, exact in ((task.metric, value), ("loss", loss)):
            if name in figures:
                figures[name]["value"] = exact
        return {"metric": None if value is None else task.metric, "value": value, "loss": loss, "figures": figures}


def metrics_json(
    config: EvaluateConfig,
    numbers: Numbers,
    *,
    quarantined: int,
    warnings: Sequence[str],
    departures: Sequence[str],
    costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    `quarantined` is the number of clips that could not be used; `costs` what the training of each network took.
    """
    dataset, tally = labelled_set(config.dataset).said_as, numbers.tally
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
                **numbers.row(dataset, row),
            }
            for row in table_rows(tally, "rows")
        ],
    }
    if config.extras:
        content["best_of_k"] = [
            {"method": row.method, "horizon": row.horizon, "k": row.k, **numbers.row(dataset, row)}
            for row in table_rows(tally, "best_of_k")
        ]
        content["diversity"] = diversity(tally)
        content["drift"] = [
            {
                "method": row.method,
                "select": row.select or None,
                "context": 1 if row.method == "deltatok" else config.context,
                "step": row.step,
                **numbers.row(dataset, row),
            }
            for row in table_rows(tally, "drift")
        ]
    return {
        **content,
        "departures": list(departures),
        "against": config.against,
        "frames": config.frames,
        "seeds": list(config.sampler_seeds),
        "videos": len(numbers.sums.videos),
        "clips_sha256": clips_hash(tally),
        "networks": {name: dict(cost) for name, cost in costs.items()},
        "measures": [measure.to_json() for measure in numbers.figures.measures],
        "differences": differences(numbers),
        "per_class": per_class(numbers),
    }


def differences(numbers: Numbers) -> list[dict[str, Any]]:
    """Return by how much predictions are above what they must beat."""
    return [
        {
            "horizon": row.horizon,
            "method": row.method,
            "select": row.select or None,
            "minus": other.method,
            "minus_select": other.select or None,
            "figures": {name: each.to_json() for name, each in numbers.figures.difference(row, other).items()},
        }
        for row, other in compared_rows(numbers.sums.rows)
    ]


def per_class(numbers: Numbers) -> list[dict[str, Any]]:
    """Return the measures that have a value for every class, at the last frame of each horizon."""
    return [
        {
            "measure": measure.name,
            "method": row.method,
            "horizon": row.horizon,
            "select": row.select or None,
            "values": values,
            "low": [each and each.low for each in intervals],
            "high": [each and each.high for each in intervals],
        }
        for row in table_rows(numbers.tally, "rows")
        if row.step == row.horizon
        for measure, values, intervals in numbers.figures.of_classes(row)
    ]


def table_rows(tally: Tally, table: Table) -> list[Row]:
    """Return the rows of a table, in the order in which they are read."""
    rows = [row for row in tally.losses if row.table == table and row.draw == 0]
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
