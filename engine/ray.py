"""Runs a stage's tasks on a Ray cluster (extra `cluster`), as `engine.run_tasks` does on one machine.

Takes a worker and tasks, yields results as they finish. Each worker is an actor that loads its models once and does one
task at a time: there are never more tasks under way than workers. An actor that dies, alone or with its node, is
replaced by another, wherever there is room, and its task goes to whichever worker is free first. (Ray's own restarts
would keep the task waiting for the actor, for ever if no node has room for it again. Tasks publish whole or not at all,
so one that is done twice does no harm.) Exceptions of a task are raised as they are, and not retried.

The nodes need the same Python, deltactl and its libraries, the paths that the command names (a shared file system, or
`s3://`), and their own credentials: keys are not sent. Starting Ray on this machine takes about 5 s and 0.5 GB.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import socket
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deltactl.configs.engine import EngineConfig
from deltactl.engine.base import Result, Task, Worker, picklable, short_name
from deltactl.errors import ConfigError, MissingExtraError, WorkerError
from deltactl.progress import counted

log = logging.getLogger(__name__)

SENT_VARIABLES = (
    *("DELTACTL_HOME", "HF_HOME", "HF_HUB_OFFLINE"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
)
"""What workers take from this environment; nothing secret."""
CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
"""After so long without a worker the log says what is being waited for."""


class RayWorker:
    """The actor: a worker of the engine in a process of the cluster. It must be importable on every node."""

    def __init__(self, worker: bytes, folder: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # relative paths of the settings count from where the command runs
            os.chdir(folder)
        self._pickled = worker
        self._worker: Worker[Any, Any] | None = None

    def start(self, slot: int) -> tuple[str, Any]:
        """Load what all tasks need."""
        return _reply(lambda: self._load().start(slot))

    def run(self, task: Any) -> tuple[str, Any]:
        """Do one task."""
        assert self._worker is not None, "start comes first"
        return _reply(partial(self._worker.run, task))

    def _load(self) -> Worker[Any, Any]:
        try:
            worker: Worker[Any, Any] = pickle.loads(self._pickled)
        except ImportError as error:
            raise WorkerError(
                f"{error} on the node {socket.gethostname()} of the Ray cluster; install the same version of deltactl "
                "and its extras there"
            ) from error
        self._worker = worker
        return worker


@dataclass(frozen=True)
class Member:
    """One worker of a run."""

    actor: Any
    slot: int


@dataclass(frozen=True)
class Job:
    """A task, how often its worker died, and until when it may take."""

    task: Any
    failures: int = 0
    deadline: float = float("inf")


class RayRun:
    """The workers of one run: those that start, those that are free, those at work."""

    def __init__(self, worker: Worker[Any, Any], engine: EngineConfig, count: int, retries: int) -> None:
        import ray

        self._ray = ray
        self._cpus, self._gpus = engine.worker_cpus or 1.0, engine.worker_gpus or 0.0
        decorator = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)
        self._class: Any = decorator(RayWorker)
        self._worker = ray.put(pickle.dumps(worker))
        self._environment = {name: os.environ[name] for name in SENT_VARIABLES if name in os.environ}
        self._retries = retries
        self._failed_starts = 0
        self._slots = list(reversed(range(count)))
        self._starting: dict[Any, Member] = {}
        self._idle: list[Member] = []
        self.busy: dict[Any, tuple[Member, Job]] = {}

    @property
    def room(self) -> int:
        """How many more tasks could be under way."""
        return len(self._slots) + len(self._starting) + len(self._idle)

    def give(self, waiting: deque[Job], time_limit_seconds: float | None) -> None:
        """Hand tasks to free workers, and start as many workers as there are tasks left."""
        while waiting and self._idle:
            member, job = self._idle.pop(), waiting.popleft()
            deadline = time.monotonic() + (time_limit_seconds if time_limit_seconds is not None else float("inf"))
            self.busy[member.actor.run.remote(job.task)] = (member, Job(job.task, job.failures, deadline))
        while self._slots and len(self._starting) < len(waiting):
            slot = self._slots.pop()
            actor = self._class.remote(self._worker, str(Path.cwd()), self._environment)
            self._starting[actor.start.remote(slot)] = Member(actor, slot)

    def wait(self) -> Iterator[tuple[Job, tuple[str, Any] | WorkerError]]:
        """Wait until something happens; yield each task that ended, with its reply or how its worker failed."""
        deadline = min((job.deadline for _, job in self.busy.values()), default=float("inf"))
        seconds = min(PATIENCE_SECONDS, max(0.0, deadline - time.monotonic()))
        done, _ = self._ray.wait([*self.busy, *self._starting], num_returns=1, timeout=seconds)
        if not done and not self.busy:
            asked = f"{counted(self._cpus, 'CPUs')} and {counted(self._gpus, 'GPUs')}"
            log.warning("waiting: no node of Ray has %s free for a worker", asked)
        for reference in done:
            if reference in self._starting:
                self._started(reference)
            else:
                member, job = self.busy.pop(reference)
                reply = self._result(reference)
                if isinstance(reply, WorkerError):
                    self._dismiss(member)
                else:
                    self._idle.append(member)
                yield job, reply
        for reference, (member, job) in list(self.busy.items()):
            if time.monotonic() >= job.deadline:
                del self.busy[reference]
                self._dismiss(member)
                yield job, WorkerError("a worker took too long for one task")

    def close(self) -> None:
        """End all workers."""
        for member in [*self._starting.values(), *self._idle, *(member for member, _ in self.busy.values())]:
            self._dismiss(member)
        self._starting, self._idle, self.busy = {}, [], {}

    def _started(self, reference: Any) -> None:
        member = self._starting.pop(reference)
        reply = self._result(reference)
        if isinstance(reply, WorkerError):
            self._dismiss(member)
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                raise WorkerError(f"{reply}, {self._failed_starts} times, before its first task") from reply
        else:
            _value(reply)
            self._failed_starts = 0
            self._idle.append(member)

    def _result(self, reference: Any) -> tuple[str, Any] | WorkerError:
        try:
            reply: tuple[str, Any] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return WorkerError(f"a worker on Ray failed ({_reason(error)})")
        return reply

    def _dismiss(self, member: Member) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(member.actor)
        self._slots.append(member.slot)


def run_on_ray(
    worker: Worker[Task, Result],
    tasks: Iterable[Task],
    engine: EngineConfig,
    *,
    time_limit_seconds: float | None = None,
    retries: int = 2,
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with its result, as they finish; errors of tasks and workers as for `engine.run_tasks`.

    Raises:
        ConfigError: there is no cluster at the address, or no node that a worker fits.
        MissingExtraError: Ray is not installed.
    """
    with cluster(engine.address):
        run = RayRun(worker, engine, worker_count(engine), retries)
        remaining = (Job(task) for task in tasks)
        waiting: deque[Job] = deque()
        try:
            while True:
                while len(waiting) < run.room and (job := next(remaining, None)) is not None:
                    waiting.append(job)
                if not waiting and not run.busy:
                    return
                run.give(waiting, time_limit_seconds)
                for job, reply in run.wait():
                    if not isinstance(reply, WorkerError):
                        yield job.task, _value(reply)
                    elif job.failures < retries:
                        log.warning("%s; its task is done again", reply)
                        waiting.appendleft(Job(job.task, job.failures + 1))
                    else:
                        times = job.failures + 1
                        raise WorkerError(f"{reply}, {times} times; the task was {short_name(job.task)}") from reply
        finally:
            run.close()


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Connect to a Ray cluster, or start one here, and leave it at the end; a connection that is there is kept."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "cluster", "--engine ray") from error
    if ray.is_initialized():
        yield ray
        return
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        if match := re.fullmatch(r"(.+):(\d+)", place.removeprefix("ray://")):
            # Ray itself would try for ten minutes.
            socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
        ray.init(
            address=place,
            include_dashboard=False if place == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {place!r} ({_reason(error)}); start one with `ray start --head`, "
            "or leave out --address to use this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def cores_per_gpu(address: str | None) -> float | None:
    """Return how many cores there are for each GPU, on the node that has the fewest; None without GPUs."""
    with cluster(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min((node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU")), default=None)


def worker_count(engine: EngineConfig) -> int:
    """Return how many workers a run on this cluster has: those asked for, else as many as its nodes have room for."""
    if engine.workers is not None:
        return engine.workers
    cpus, gpus = engine.worker_cpus or 1.0, engine.worker_gpus or 0.0
    with cluster(engine.address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(
        int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else float("inf"))) for node in nodes
    )
    if count == 0:
        largest = counted(max((node.get("CPU", 0) for node in nodes), default=0), "CPUs")
        raise ConfigError(
            f"no node of the Ray cluster has {counted(cpus, 'CPUs')} and {counted(gpus, 'GPUs')}, which a worker asks "
            f"for (the largest has {largest}); set worker_cpus and worker_gpus, or --workers N if nodes will come"
        )
    return count


def _reply(work: Any) -> tuple[str, Any]:
    try:
        return ("done", work())
    except Exception as error:
        return ("failed", (picklable(error), traceback.format_exc()))


def _value(reply: tuple[str, Any]) -> Any:
    kind, value = reply
    if kind == "failed":
        exception, trace = value
        exception.add_note(trace)
        raise exception
    return value


def _reason(error: BaseException) -> str:
    """Return what matters of Ray's account of why an actor is gone."""
    text = " ".join(str(error).split())
    found = re.search(r"Worker exit detail: (.*?)\.( |$)|(The actor is dead because .*?)\.( |$)", text)
    return (found[1] or found[3]) if found else f"{type(error).__name__}: {text[:200]}"
