"""Compiled networks compute what the others do, in one graph, outputs and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import printed

SCRIPT = Path(__file__).parents[1] / "helpers" / "compiled_networks.py"
NETWORKS = [
    *("training tokenizer", "frozen tokenizer", "tokenizer of four tokens"),
    *("best of many", "best of many, four tokens", "baseline", "rollout"),
]


def distances(backend: str, networks: list[str], cache: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads("".join(printed(SCRIPT, backend, *networks, cache=cache, timeout=280)))
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
