"""Benchmarks run: in small those of a few seconds; of the others all that they import is there."""

from __future__ import annotations

import os
import re
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


def start(name: str, words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *words.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def run(name: str, words: str) -> str:
    done = start(name, words)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_in_small(name: str) -> None:
    words, printed = SMALL[name]
    assert printed in run(name, words)


def test_layer_scales_are_trained_once_and_with_the_same_settings(tmp_path: Path) -> None:
    settings = "batch_size=8 effective_batch=8 log_every=2 validation_fraction=0.3"
    words = f"--videos 3 --steps 4 --seeds 0 1 --out {tmp_path}/runs"
    first = run("layer_scale", f"{words} --scales 1e-5 0.5 --settings {settings}")
    line = r"^layer scale 0\.5, seed 1: above 1\.02 never; at the end z-swap \d\.\d+, loss \d\.\d+ of copying's; \d+ s$"
    assert re.search(line, first, re.MULTILINE), first
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/scale-*/metrics.csv")}
    assert len(written) == 4
    again = run("layer_scale", f"{words} --demo {tmp_path}/runs/demo --scales 0.5 0.1 1e-5 --settings {settings}")
    assert written == {path: path.stat().st_mtime_ns for path in written}, "what has ended is read"
    assert re.findall(r"\| ([\d.e-]+) \| (\d of \d) \|", again) == [
        ("0.5", "0 of 2"),
        ("0.1", "0 of 2"),
        ("1e-05", "0 of 2"),
    ]
    assert first[first.index("| 1e-05 |") :].splitlines()[0] in again.splitlines()
    other = start("layer_scale", f"{words} --demo {tmp_path}/runs/demo --scales 0.5 --settings {settings} lr=1e-2")
    assert other.returncode == 1
    assert f"{tmp_path}/runs holds runs with other settings (lr); choose another --out" in other.stderr


@pytest.mark.parametrize("name", sorted({path.stem for path in BENCHMARKS.glob("[!g]*.py")} - SMALL.keys()))
def test_what_it_imports_is_there(name: str) -> None:
    if "__main__" in (BENCHMARKS / f"{name}.py").read_text():
        assert "usage" in run(name, "--help")
