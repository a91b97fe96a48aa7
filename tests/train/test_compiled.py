"""Training compiled by inductor computes what training without does, and leaves the same checkpoints.

`test_as_on_gpu` does it for every network and kind of data, with graphs that are captured only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import printed

SCRIPT = Path(__file__).parents[1] / "helpers" / "compiled_training.py"
NEAR = {"cpu": 1e-4, "cuda": 0.02}
"""How near the losses are: in float32 on a CPU, in bf16 on a GPU."""


def trained(device: str, folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """Train in a process of its own and return what it says."""
    found: dict[str, dict[str, Any]] = json.loads(printed(SCRIPT, device, folder, *names, cache=folder / "cache")[-1])
    return found


def check(found: dict[str, dict[str, Any]], device: str) -> None:
    for name, each in found.items():
        assert len(each["plain"]) == 4, name
        assert each["compiled"] == pytest.approx(each["plain"], rel=NEAR[device]), name
        assert each["graphs"] > 0, f"{name}: nothing was compiled"
        assert not any("_orig_mod" in key for key in each["names"]), name


@pytest.mark.slow
def test_inductor_trains_a_tokenizer_as_without(tmp_path: Path) -> None:
    check(trained("cpu", tmp_path, "tokenizer"), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tokenizer", "tokenizer live", "world", "world live", "baseline"])
def test_it_trains_compiled_on_a_gpu(name: str, tmp_path: Path) -> None:
    check(trained("cuda", tmp_path, name), "cuda")
