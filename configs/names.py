"""Settings that name a record of a registry: the name is checked when it is set, and nothing of the record imported."""

from __future__ import annotations

from typing import Annotated

from deltactl.configs.values import OneOf
from deltactl.registry import DATASETS, LOSSES, NETWORKS

VIDEO_SETS = ("kinetics", "folder")
"""Those of the package's own data sets that have no labels."""


def evaluation_sets() -> tuple[str, ...]:
    """Return the names of data sets that may have labels: all but those that are known to have none."""
    return tuple(name for name in DATASETS.names() if name not in VIDEO_SETS)


def root_variable(dataset: str) -> str | None:
    """Return the environment variable that names the root of a data set; None for plain folders."""
    return None if dataset == "folder" else f"{_upper(dataset)}_ROOT"


def head_variable(dataset: str) -> str | None:
    """Return the environment variable that names a data set's head; None if it has no labels."""
    return None if dataset in VIDEO_SETS else f"{_upper(dataset)}_HEAD_PATH"


def _upper(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).upper()


NetworkName = Annotated[str, OneOf(NETWORKS.names)]
LossName = Annotated[str, OneOf(LOSSES.names)]
DataSetName = Annotated[str, OneOf(DATASETS.names)]
EvaluationSet = Annotated[str, OneOf(evaluation_sets)]
"""The name of a data set that an evaluation, or a head, knows."""
