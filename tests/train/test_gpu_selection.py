"""GPUs are hidden from tests that do not ask for them, and shown to those that do."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
wants_gpus = runpy.run_path(str(TESTS / "conftest.py"))["wants_gpus"]


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("", False),
        ("gpu", True),
        ("gpu and not slow", True),
        ("slow or gpu", True),
        ("not gpu", False),
        ("slow", False),
    ],
)
def test_an_expression_of_markers_asks_for_gpus(expression: str, wanted: bool) -> None:
    assert wants_gpus(expression) is wanted


PROBE = """
import os
import pytest

print("collected with", repr(os.environ.get("CUDA_VISIBLE_DEVICES")))

def test_anything():
    pass
"""


@pytest.mark.parametrize(("options", "seen"), [([], "''"), (["-m", "not gpu"], "''"), (["-m", "gpu"], "'3'")])
def test_gpus_are_hidden_unless_asked_for(options: list[str], seen: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-q", "--rootdir", str(tmp_path), "-c", os.devnull, *options, "."],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "3"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"collected with {seen}" in done.stdout, done.stdout + done.stderr
