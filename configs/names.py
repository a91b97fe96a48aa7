"""Settings that name a record of a registry: the name is checked when it is set, and nothing of the record imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from deltactl.configs.values import OneOf
from deltactl.registry import DATASETS, LOSSES, NETWORKS

LAYOUTS = ("folder", "lerobot", "hdf5")
"""Those that are a layout, of which there are many sets, and no set of one root."""
VIDEO_SETS = ("kinetics", *LAYOUTS)
"""Those of the package's own data sets that have no labels."""


DATASET_FILE = "FILE.yaml"
FILE_ENDINGS = (".yaml", ".yml")
TOLD_NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]*)\.(?P<task>[a-z]+)\.(?P<classes>[0-9]{1,3})")
"""What shards, heads and reports call a set that a file tells, such as `streets.segmentation.5`."""


def is_dataset_file(name: str) -> bool:
    """Return whether the name of a data set is that of a file that tells of one (`configs.dataset`)."""
    return name.lower().endswith(FILE_ENDINGS)


@dataclass(frozen=True, eq=False)
class DataSetOf(OneOf):
    """A data set: a name out of a registry, or a file that tells of one, which becomes an absolute path."""

    def check(self, name: str) -> str:
        """Return a known name as it is, and the path of a file as an absolute one.

        Raises:
            ValueError: it is neither.
        """
        if not is_dataset_file(name):
            return super().check(name)
        from deltactl.locations import Location  # which every help page would wait for

        return str(Location.of(name))


def evaluation_sets() -> tuple[str, ...]:
    """Return the names of data sets that may have labels: all but those that are known to have none."""
    return tuple(name for name in DATASETS.names() if name not in VIDEO_SETS)


def root_variable(dataset: str) -> str | None:
    """Return the environment variable that names the root of a data set; None for a layout, such as plain folders."""
    return None if dataset in LAYOUTS or is_dataset_file(dataset) else f"{_upper(dataset)}_ROOT"


def head_variable(dataset: str) -> str | None:
    """Return the environment variable that names a data set's head; None if it has no labels."""
    return None if dataset in VIDEO_SETS or is_dataset_file(dataset) else f"{_upper(dataset)}_HEAD_PATH"


def _upper(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).upper()


NetworkName = Annotated[str, OneOf(NETWORKS.names)]
LossName = Annotated[str, OneOf(LOSSES.names)]
DataSetName = Annotated[str, DataSetOf(DATASETS.names, DATASET_FILE)]
EvaluationSet = Annotated[str, DataSetOf(evaluation_sets, DATASET_FILE)]
"""The name of a data set that an evaluation, or a head, knows, or a file that tells of one."""
