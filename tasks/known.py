"""The tasks that are known, by name."""

from __future__ import annotations

import importlib

from deltactl.datasets.known import labelled_set
from deltactl.errors import ConfigError
from deltactl.tasks.record import Task

BUILT_IN = {
    "segmentation": "deltactl.tasks.segmentation:SEGMENTATION",
    "depth": "deltactl.tasks.depth:DEPTH",
}


def task(name: str) -> Task:
    """Return the record of a task; ConfigError where none has this name."""
    if name not in BUILT_IN:
        raise ConfigError(f"no task is called {name!r}; expected one of {', '.join(BUILT_IN)}")
    module, _, attribute = BUILT_IN[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, Task)
    return found


def task_of(dataset: str) -> Task:
    """Return the task of an evaluation set; ConfigError where there is no such set."""
    return task(labelled_set(dataset).task)
