"""The data sets that are known, by name: those of this package, and those that others bring (`registry.DATASETS`)."""

from __future__ import annotations

from deltactl.datasets.record import DataSet, LabelledSet, VideoSet
from deltactl.errors import ConfigError
from deltactl.registry import DATASETS


def data_set(name: str) -> DataSet:
    """Return the record of a data set.

    Raises:
        ConfigError: none has this name.
    """
    return DATASETS.get(name, DataSet)


def labelled_set(name: str) -> LabelledSet:
    """Return the record of an evaluation set.

    Raises:
        ConfigError: none has this name, or it has no labels.
    """
    found = data_set(name)
    if not isinstance(found, LabelledSet):
        raise ConfigError(f"{name} has no labels; expected an evaluation set: {', '.join(labelled_names())}")
    return found


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
