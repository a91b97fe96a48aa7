"""No task: a data set without labels. Its clips are evaluated by their features, and drawn; it has no head."""

from __future__ import annotations

from typing import Any, NoReturn

from deltactl.datasets.record import LabelledSet
from deltactl.errors import ConfigError
from deltactl.tasks.record import Task


def head(dataset: LabelledSet) -> NoReturn:
    """Refuse to make a head.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"{dataset.title} has no labels (its task is none), so there is no head for it")


def refuse(*_: Any, **__: Any) -> NoReturn:
    """Refuse what needs labels."""
    raise AssertionError("a set without labels has no head whose outputs could be compared or drawn")


NONE = Task(
    name="none",
    points_per_patch=1,
    head=head,
    loss=refuse,
    figures=refuse,
    measure=refuse,
    metric="none",
    metric_title="no labels",
    rendering=refuse,
)
