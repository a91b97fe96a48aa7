"""The data sets that are known, by name."""

from __future__ import annotations

import importlib

from deltactl.datasets.record import DataSet, LabelledSet, VideoSet
from deltactl.errors import ConfigError

BUILT_IN = {
    "kinetics": "deltactl.datasets.kinetics:KINETICS",
    "folder": "deltactl.datasets.folder:FOLDER",
    "vspw": "deltactl.datasets.vspw:VSPW",
    "cityscapes": "deltactl.datasets.cityscapes:CITYSCAPES",
    "kitti": "deltactl.datasets.kitti:KITTI",
}


def data_set(name: str) -> DataSet:
    """Return the record of a data set; ConfigError where none has this name."""
    if name not in BUILT_IN:
        raise ConfigError(f"no data set is called {name!r}; expected one of {', '.join(BUILT_IN)}")
    module, _, attribute = BUILT_IN[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, DataSet)
    return found


def labelled_set(name: str) -> LabelledSet:
    """Return the record of an evaluation set; ConfigError where none has this name, or it has no labels."""
    found = data_set(name)
    if not isinstance(found, LabelledSet):
        raise ConfigError(f"{name} has no labels; expected an evaluation set")
    return found


def video_set(name: str) -> VideoSet:
    """Return the record of a set of videos; ConfigError where none has this name, or it is another kind of set."""
    found = data_set(name)
    if not isinstance(found, VideoSet):
        raise ConfigError(f"{name} says itself which clips it has; expected a set of videos")
    return found
