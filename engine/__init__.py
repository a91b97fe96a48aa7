"""Runs a stage's tasks: in this process, in spawned worker processes that may die or hang, or on Ray.

Takes a worker (what to do) and tasks (what to do it to; small and picklable), returns results as they finish. The files
of this package import each other and `base`, never the package.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from deltactl.configs.engine import EngineConfig
from deltactl.engine.base import Result, Task, Worker, batched
from deltactl.engine.local import Child, run_here, run_in_processes

__all__ = ["Child", "Worker", "batched", "run_tasks"]


def run_tasks(
    worker: Worker[Task, Result],
    tasks: Iterable[Task],
    *,
    workers: int = 0,
    time_limit_seconds: float | None = None,
    retries: int = 2,
    engine: EngineConfig | None = None,
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with its result, as they finish.

    With `workers` 0 the tasks run in this process, in order, without a time limit. Otherwise in so many processes: one
    that dies or runs out of time is replaced and its task tried again, `retries` times. An exception of a task is
    raised here and ends the run; so does closing the iterator. Tasks are drawn as they are needed.

    Where `engine` says ray, all that holds for the workers of the Ray cluster that it describes (`engine.ray`).

    Raises:
        WorkerError: workers died at a task, or took too long for it, more than `retries` times.
    """
    if engine is not None and engine.engine == "ray":
        from deltactl.engine.ray import run_on_ray

        yield from run_on_ray(worker, tasks, engine, time_limit_seconds=time_limit_seconds, retries=retries)
    elif workers == 0:
        yield from run_here(worker, tasks)
    else:
        yield from run_in_processes(worker, tasks, workers, time_limit_seconds=time_limit_seconds, retries=retries)
