"""Runs a stage's tasks on this machine: in this process, or in spawned ones that may die or hang.

A worker is copied to each process once and keeps what it loads in `start`. Processes are spawned, never forked:
tensorstore, zarr and CUDA do not survive a fork. They die with their parent, so that nothing is left behind.

`Child` is one such process, to call a decoder that may crash without crashing oneself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

from deltactl.engine.base import Result, Task, Worker, picklable, short_name
from deltactl.errors import WorkerDiedError, WorkerError, WorkerStartError, WorkerTimeoutError

PARENT_CHECK_SECONDS = 1.0
START_REMEDY = (
    "give it fewer of them to start (--workers), or this machine more: memory, processes (ulimit -u) or open files "
    "(ulimit -n)"
)


class Child(Generic[Task, Result]):
    """One spawned process that runs a worker's tasks one at a time, and is started again after it died.

    A context manager; `close` ends the process. `daemon` children end with the process that made them, and cannot have
    children of their own.
    """

    def __init__(self, worker: Worker[Task, Result], slot: int = 0, *, daemon: bool = True) -> None:
        self._worker = worker
        self._slot = slot
        self._daemon = daemon
        self._process: Any = None
        self._connection: Connection | None = None
        self._limit: float | None = None
        self._deadline: float | None = None
        self._ready = False

    def call(self, task: Task, time_limit_seconds: float | None = None, *, deaths: int = 1) -> Result:
        """Return the result of one task; an exception of the task is raised as it is.

        Raises:
            WorkerStartError: no process can be started.
            WorkerDiedError: as many processes as `deaths` died at it (one may have been killed from outside).
            WorkerTimeoutError: it takes longer than the limit; the time to start a process does not count.
        """
        for _ in range(deaths - 1):
            with contextlib.suppress(WorkerDiedError):
                return self._call_once(task, time_limit_seconds)
        return self._call_once(task, time_limit_seconds)

    def _call_once(self, task: Task, time_limit_seconds: float | None) -> Result:
        self.send(task, time_limit_seconds)
        while True:
            wait([self.connection], timeout=self.seconds_left())
            if (reply := self.receive()) is not None:
                return reply[0]

    def send(self, task: Task, time_limit_seconds: float | None = None) -> None:
        """Begin one task, starting the process if there is none."""
        if self._process is None:
            self._spawn()
        self._limit = time_limit_seconds
        self._deadline = None
        if self._ready:
            self._start_clock()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died meanwhile; `receive` says so
            self.connection.send(task)

    def receive(self) -> tuple[Result] | None:
        """Return the result if it is there (in a tuple, since it may be None), raise as `call` does, or return None."""
        try:
            if not self.connection.poll():
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self.close()
                    raise WorkerTimeoutError(f"a worker process took more than {self._limit:g} s for one task")
                return None
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(5)
            code, began = self._process.exitcode, self._ready
            self.close()
            if not began:
                raise WorkerStartError(
                    f"a worker process {describe_exit(code)} before it began; {START_REMEDY}"
                ) from error
            raise WorkerDiedError(f"a worker process {describe_exit(code)} in the middle of a task") from error
        if kind == "ready":
            self._ready = True
            self._start_clock()
            return None
        self._deadline = None
        if kind == "failed":
            exception, trace = value
            if not self._ready:
                self.close()  # `start` failed, and the process is gone
            exception.add_note(trace)
            raise exception
        return (value,)

    @property
    def connection(self) -> Connection:
        """The pipe to the process, to wait on."""
        assert self._connection is not None, "no process: send a task first"
        return self._connection

    def seconds_left(self) -> float | None:
        """How long the task under way may still take; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self.connection.close()
        self._process = self._connection = self._deadline = None
        self._ready = False

    def __enter__(self) -> Child[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._process is not None:
            raise TypeError("a Child with a running process cannot be pickled")
        return self.__dict__

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            self._connection, theirs = context.Pipe()
            process: Any = context.Process(
                target=_child_main, args=(theirs, self._worker, self._slot, os.getpid()), daemon=self._daemon
            )
            process.start()
        except OSError as error:
            if self._connection is not None:
                self._connection.close()
                theirs.close()
            self._connection = None
            reason = error.strerror or str(error)
            raise WorkerStartError(f"a worker process cannot be started ({reason}); {START_REMEDY}") from error
        self._process = process
        theirs.close()

    def _start_clock(self) -> None:
        self._deadline = None if self._limit is None else time.monotonic() + self._limit


def run_here(worker: Worker[Task, Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, in order, from this process; whatever a task raises."""
    worker.start(0)
    for task in tasks:
        yield task, worker.run(task)


def run_in_processes(
    worker: Worker[Task, Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    time_limit_seconds: float | None = None,
    retries: int = 2,
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with its result, as they finish in so many spawned processes; see `engine.run_tasks`."""
    remaining = iter(tasks)
    again: deque[tuple[Task, int]] = deque()
    idle: list[Child[Task, Result]] = [Child(worker, slot, daemon=False) for slot in reversed(range(workers))]
    busy: dict[Child[Task, Result], tuple[Task, int]] = {}
    try:
        while True:
            while idle and (job := again.popleft() if again else next(((task, 0) for task in remaining), None)):
                child = idle.pop()
                busy[child] = job
                child.send(job[0], time_limit_seconds)
            if not busy:
                return
            limits = [left for child in busy if (left := child.seconds_left()) is not None]
            wait([child.connection for child in busy], timeout=min(limits, default=None))
            for child in list(busy):
                task, failures = busy[child]
                try:
                    reply = child.receive()
                except (WorkerStartError, WorkerDiedError, WorkerTimeoutError) as error:
                    if failures >= retries:
                        raise WorkerError(f"{error}, {failures + 1} times; the task was {short_name(task)}") from error
                    again.append((task, failures + 1))
                else:
                    if reply is None:
                        continue
                    yield task, reply[0]
                del busy[child]
                idle.append(child)
    finally:
        for child in [*busy, *idle]:
            child.close()


def describe_exit(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is None:
        return "stopped answering"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"exited with code {code}"


def _child_main(connection: Connection, worker: Worker[Any, Any], slot: int, parent: int) -> None:
    # Ctrl-C, a closed terminal and a job's end reach the whole process group; the parent decides what they mean.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    try:
        worker.start(slot)
    except BaseException as error:
        connection.send(("failed", (picklable(error), traceback.format_exc())))
        return
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            reply = ("done", worker.run(task))
        except BaseException as error:
            reply = ("failed", (picklable(error), traceback.format_exc()))
        try:
            connection.send(reply)
        except BrokenPipeError:
            return


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
