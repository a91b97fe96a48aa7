"""Memory that runs out, and processes that cannot be had, are told as what they are."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from videos import make_video

from deltactl.engine import Child, run_tasks
from deltactl.errors import WorkerDiedError, WorkerError, WorkerStartError
from deltactl.main_memory import memory_fault, too_small_limit


class Doubler:
    def start(self, slot: int) -> None:
        pass

    def run(self, task: int) -> int:
        return 2 * task


class EndsAtOnce(Doubler):
    def start(self, slot: int) -> None:
        os._exit(1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_what_libraries_say_of_a_full_memory_is_one_error(error: Exception) -> None:
    found = memory_fault(error)
    assert found is not None
    assert "memory ran out" in str(found)
    assert "this process holds" in str(found)
    assert "--batch-size" in str(found)
    try:
        raise ValueError("on the way") from error
    except ValueError as outer:
        assert memory_fault(outer) is not None


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), ImportError("no x")])
def test_other_errors_are_no_full_memory(error: Exception) -> None:
    assert memory_fault(error) is None


def test_a_limit_that_the_libraries_do_not_fit_into_is_told_before_and_after(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (300_000_000, 300_000_000))

    make_video(tmp_path / "videos.mp4", frames=30)
    command = [sys.executable, "-m", "deltactl", "ingest", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert "WARNING: ulimit -v allows 0.3 GB of address space" in done.stderr
    assert "error: memory ran out" in done.stderr
    assert "its address space may have 0.3 GB (ulimit -v)" in done.stderr
    assert too_small_limit() is None


def test_a_process_that_cannot_be_started_says_why_and_what_to_do() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        with (
            Child(Doubler()) as child,
            pytest.raises(WorkerStartError, match=r"cannot be started \(Too many open files\); give it fewer"),
        ):
            child.call(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with Child(Doubler()) as child:
        assert child.call(1) == 2


def test_a_process_that_ends_before_it_begins_is_not_the_fault_of_its_task() -> None:
    """A decoder's death costs a source; that there is no process to be had must not cost them all."""
    assert not issubclass(WorkerStartError, WorkerDiedError)
    with Child(EndsAtOnce()) as child, pytest.raises(WorkerStartError, match="exited with code 1 before it began"):
        child.call(1)
    with pytest.raises(WorkerError, match="before it began.*2 times"):
        list(run_tasks(EndsAtOnce(), [1], workers=1, retries=1))
