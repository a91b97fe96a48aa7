"""Benchmarks run: in small those of a few seconds; of the others all that they import is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "store": ("--clips 2 --patches 16 --rounds 1 --groups 3 --columns", "columns carried, read"),
    "dataset": ("--clips 2 --patches 16 --tokens 256 --workers 1 --rounds 1", "1.00 of read_clips"),
    "featurize": ("--model s --size 64 --clips 2 --shards 1 --rounds 1", "of the bare backbone"),
    "ingest": ("--videos 1 --clips 1 --rounds 1 --sources 0", "bare PyAV loop"),
}
"""Options that make a benchmark small, and what it prints then."""


def run(name: str, words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *words.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_in_small(name: str) -> None:
    words, printed = SMALL[name]
    assert printed in run(name, words)


@pytest.mark.parametrize("name", sorted({path.stem for path in BENCHMARKS.glob("[!g]*.py")} - SMALL.keys()))
def test_what_it_imports_is_there(name: str) -> None:
    if "__main__" in (BENCHMARKS / f"{name}.py").read_text():
        assert "usage" in run(name, "--help")
