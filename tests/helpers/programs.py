"""Runs the command line in this process, and scripts that print JSON in processes of their own.

What compiles networks needs the latter: the tests check shapes by a wrapper of every function, which torch.compile
cannot trace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deltactl.cli import main

TESTS = Path(__file__).parents[1]


def printed(script: Path, *words: object, cache: Path | None = None, timeout: int = 580) -> list[str]:
    """Return the lines that a script prints, without the check of shapes; `cache`: where inductor keeps its kernels."""
    inductor = {} if cache is None else {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        env={**os.environ, "JAXTYPING_DISABLE": "1", **inductor},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def succeeding(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs the program in this process, which must succeed, and returns its stdout."""
    call = caller(capsys)

    def done(*words: str) -> str:
        code, out, error = call(*words)
        assert code == 0, error
        return out

    return done


def caller(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return what runs the program in this process, and returns exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call
