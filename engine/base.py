"""What the engines share: what a worker is, tasks in batches, and how tasks and errors are said and sent."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from deltactl.errors import DeltactlError, WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


@runtime_checkable
class Worker(Protocol[Task_contra, Result_co]):
    """What a process does; picklable before `start`."""

    def start(self, slot: int) -> None:
        """Load what all tasks need, once in each process; `slot` counts the processes from 0 (CUDA device, say)."""

    def run(self, task: Task_contra) -> Result_co:
        """Do one task."""
        ...


def batched(tasks: Iterable[Task], size: int) -> Iterator[tuple[Task, ...]]:
    """Yield tuples of so many tasks, drawn when they are needed; the last may be shorter."""
    remaining = iter(tasks)
    while batch := tuple(itertools.islice(remaining, size)):
        yield batch


def short_name(task: object) -> str:
    """Return a task in a few words, for an error."""
    text = repr(task)
    return text if len(text) <= 200 else text[:197] + "…"


def picklable(error: BaseException) -> BaseException:
    """Return the exception, or one that says the same where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = DeltactlError if isinstance(error, DeltactlError) else WorkerError
        return kind(str(error) if isinstance(error, DeltactlError) else f"{type(error).__name__}: {error}")
    return error
