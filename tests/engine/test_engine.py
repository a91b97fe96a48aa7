"""Tasks run here or in processes that may die, hang or fail, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from deltactl.engine import Child, run_tasks
from deltactl.engine.local import describe_exit
from deltactl.errors import MissingExtraError, SourceError, WorkerDiedError, WorkerError, WorkerTimeoutError


@dataclass
class Squarer:
    """Squares numbers; misbehaves once for each file name in `once`, and always for negative numbers."""

    folder: Path
    started: int = -1

    def start(self, slot: int) -> None:
        assert self.started == -1, "start runs once in each process"
        self.started = slot

    def run(self, task: int) -> tuple[int, int, int]:
        if task in (7, 8) and not (self.folder / str(task)).exists():
            (self.folder / str(task)).touch()
            if task == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if task == -1:
            os._exit(3)
        if task == -2:
            raise SourceError("the source of task -2 cannot be read")
        if task == -3:
            raise MissingExtraError("ray", "cluster", "the ray engine")
        if task == -4:
            time.sleep(60)
        return task * task, self.started, os.getpid()


class Broken:
    def start(self, slot: int) -> None:
        raise SourceError("no model in slot 0")

    def run(self, task: int) -> int:
        return task


@pytest.fixture
def children() -> Callable[[], list[psutil.Process]]:
    """Lists the children that this process has now and had not when the test began."""

    def living() -> list[psutil.Process]:
        # multiprocessing's own resource tracker stays; it belongs to the interpreter
        return [
            child
            for child in psutil.Process().children()
            if "resource_tracker" not in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
        ]

    before = living()
    return lambda: [child for child in living() if child not in before]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_task_has_its_result(tmp_path: Path, workers: int) -> None:
    results = dict(run_tasks(Squarer(tmp_path), range(6), workers=workers))
    assert {task: square for task, (square, _, _) in results.items()} == {task: task**2 for task in range(6)}
    processes = {process for _, _, process in results.values()}
    assert (processes == {os.getpid()}) == (workers == 0)


def test_tasks_are_drawn_as_they_are_needed(tmp_path: Path, children: Callable[[], list[psutil.Process]]) -> None:
    drawn: list[int] = []

    def tasks() -> object:
        for task in range(100):
            drawn.append(task)
            yield task

    iterator = run_tasks(Squarer(tmp_path), tasks(), workers=2)
    next(iterator)
    iterator.close()
    assert len(drawn) <= 4
    assert not children()


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    results = dict(run_tasks(Squarer(tmp_path), [1, 7, 2], workers=2))
    assert sorted(square for square, _, _ in results.values()) == [1, 4, 49]


def test_a_hanging_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    results = dict(run_tasks(Squarer(tmp_path), [1, 8], workers=1, time_limit_seconds=1.5))
    assert results[8][0] == 64


def test_a_task_that_always_kills_its_worker_is_an_error_that_names_it(
    tmp_path: Path, children: Callable[[], list[psutil.Process]]
) -> None:
    with pytest.raises(WorkerError, match=r"exited with code 3 .* 2 times; the task was -1"):
        list(run_tasks(Squarer(tmp_path), [-1], workers=1, retries=1))
    assert not children()


def test_an_exception_of_a_task_ends_the_run_and_arrives_as_it_is(
    tmp_path: Path, children: Callable[[], list[psutil.Process]]
) -> None:
    with pytest.raises(SourceError, match="task -2") as caught:
        list(run_tasks(Squarer(tmp_path), [1, -2, 3], workers=2))
    assert any("in run" in note for note in caught.value.__notes__)
    assert not children()


def test_an_exception_that_does_not_pickle_keeps_its_message(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"needs ray, which is not installed; run: pip install 'deltactl\[cluster\]'"):
        list(run_tasks(Squarer(tmp_path), [-3], workers=1))


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(SourceError, match="no model in slot 0"):
        list(run_tasks(Broken(), [1], workers=1))


def test_a_child_that_died_or_hung_serves_the_next_call(
    tmp_path: Path, children: Callable[[], list[psutil.Process]]
) -> None:
    with Child(Squarer(tmp_path)) as child:
        with pytest.raises(WorkerDiedError, match="exited with code 3"):
            child.call(-1)
        assert child.call(3)[0] == 9
        with pytest.raises(WorkerTimeoutError, match="more than 0.5 s"):
            child.call(-4, time_limit_seconds=0.5)
        assert child.call(4, time_limit_seconds=30.0)[0] == 16
    assert not children()


def test_a_child_that_is_killed_once_answers_where_a_second_may_try(
    tmp_path: Path, children: Callable[[], list[psutil.Process]]
) -> None:
    with Child(Squarer(tmp_path)) as child:
        assert child.call(7, deaths=2)[0] == 49
        with pytest.raises(WorkerDiedError, match="exited with code 3"):
            child.call(-1, deaths=2)
        with pytest.raises(SourceError, match="the source of task -2"):
            child.call(-2, deaths=2)
    assert not children()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from deltactl.engine import run_tasks\n"
        "from sleeper import Sleeper\n"
        "if __name__ == '__main__':\n"
        "    list(run_tasks(Sleeper(), [0, 1], workers=2))\n"
    )
    (tmp_path / "sleeper.py").write_text(
        "import os, time, pathlib\n"
        "class Sleeper:\n"
        "    def start(self, slot): pass\n"
        f"    def run(self, task): pathlib.Path({str(tmp_path)!r}, f'pid{{task}}').write_text(str(os.getpid())); "
        "time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        files = [tmp_path / "pid0", tmp_path / "pid1"]
        _until(lambda: all(file.exists() and file.read_text() for file in files))
        workers = [int(file.read_text()) for file in files]
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not any(psutil.pid_exists(worker) for worker in workers))


def test_exits_are_described_in_words() -> None:
    assert describe_exit(-9) == "was ended by SIGKILL (out of memory?)"
    assert describe_exit(-11) == "was ended by SIGSEGV"
    assert describe_exit(1) == "exited with code 1"
    assert describe_exit(None) == "stopped answering"


def _until(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
