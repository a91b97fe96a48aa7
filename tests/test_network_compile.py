"""Compiled networks compute what the others do, in one graph, outputs and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compiled_networks.py"
NETWORKS = ["training tokenizer", "frozen tokenizer", "best of many", "baseline", "rollout"]


def distances(backend: str, networks: list[str], cache: Path) -> dict[str, float]:
    environment = {
        **os.environ,
        "JAXTYPING_DISABLE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), backend, *networks],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return distances("aot_eager", NETWORKS, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("network", NETWORKS)
def test_captured_graphs_give_the_same_numbers(network: str, captured: dict[str, float]) -> None:
    assert captured[network] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("network", ["training tokenizer", "best of many"])
def test_inductor_gives_the_same_numbers(network: str, tmp_path: Path) -> None:
    assert distances("inductor", [network], tmp_path)[network] < 1e-4
