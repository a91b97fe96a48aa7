"""The tasks that are known, by name: those of this package, and those that others bring (`registry.TASKS`)."""

from __future__ import annotations

from deltactl.datasets.known import labelled_set
from deltactl.registry import TASKS
from deltactl.tasks.record import Task


def task_of(dataset: str) -> Task:
    """Return the task of an evaluation set.

    Raises:
        ConfigError: there is no such set, or no such task.
    """
    return TASKS.get(labelled_set(dataset).task, Task)
