"""The data sets that are known, by name: those of this package, and those that others bring (`registry.DATASETS`).

A name that ends in .yaml is a file that tells of a set (`datasets.told`); one as in `streets.segmentation.5` is what
was made from such a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltactl.configs.names import TOLD_NAME, is_dataset_file
from deltactl.datasets.record import DataSet, LabelledSet, VideoSet
from deltactl.errors import ConfigError
from deltactl.registry import DATASETS


def data_set(name: str) -> DataSet:
    """Return the record of a data set.

    Raises:
        ConfigError: none has this name, or the file of this name tells of none.
    """
    found = _told(name) if "." in name and name not in DATASETS.names() else None
    return DATASETS.get(name, DataSet) if found is None else found


def _told(name: str) -> LabelledSet | None:
    from deltactl.datasets.told import described, told_set  # which need PyYAML, and few sets are told in files

    return told_set(name, again=False) if is_dataset_file(name) else described(name)


def read_again(name: str) -> None:
    """Read the file that tells of a data set anew, if this is one: what a stage begins with.

    Raises:
        ConfigError: as `data_set`.
    """
    if is_dataset_file(name):
        from deltactl.datasets.told import told_set

        told_set(name)


def says_itself(name: str) -> bool:
    """Return whether this is what shards, heads and reports call a set that a file told."""
    return name not in DATASETS.names() and TOLD_NAME.fullmatch(name) is not None


def labelled_set(name: str) -> LabelledSet:
    """Return the record of an evaluation set.

    Raises:
        ConfigError: none has this name, or it has no labels.
    """
    found = data_set(name)
    if not isinstance(found, LabelledSet):
        raise ConfigError(f"{name} has no labels; expected an evaluation set: {', '.join(labelled_names())}")
    return found


def planned_set(name: str, identity: Mapping[str, Any]) -> LabelledSet:
    """Return the record of an evaluation set by which shards were planned, whose identity is given.

    Raises:
        ConfigError: as `labelled_set`, or the file that tells of the set was changed since.
    """
    record = labelled_set(name)
    if any(identity.get(key) != value for key, value in record.identity.items()):
        raise ConfigError(f"{name} was changed since the clips were planned; run this again")
    return record


def video_set(name: str) -> VideoSet:
    """Return the record of a set of videos.

    Raises:
        ConfigError: none has this name, or it is another kind of set.
    """
    found = data_set(name)
    if not isinstance(found, VideoSet):
        raise ConfigError(f"{name} says itself which clips it has; expected a set of videos")
    return found


def labelled_names() -> tuple[str, ...]:
    """Return the names of all evaluation sets."""
    return tuple(record.name for record in DATASETS.each(DataSet) if isinstance(record, LabelledSet))
