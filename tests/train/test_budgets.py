"""What compiled steps may ask of a device: kernels, moved bytes, library calls, and bytes kept for the backward pass.

The table holds what each step asked for when it was last written, and the limit. `python
tests/helpers/lowered_steps.py` prints the figures of today, and says what they are; where a change makes them smaller,
lower the limits with it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import printed

SCRIPT = Path(__file__).parents[1] / "helpers" / "lowered_steps.py"
MEASURES = ("kernels", "kernel_gb", "calls", "library_gb", "saved_gb")


@dataclass(frozen=True)
class Budget:
    """One step on one device: what it asked for, and its limit, by measure."""

    device: str
    step: str
    found: tuple[float, ...]
    """In the order of MEASURES."""
    limit: tuple[float, ...]


BUDGETS = (
    Budget("cpu", "tokenizer", (259, 2.39, 105, 1.19, 0.368), (285, 2.65, 110, 1.32, 0.41)),
    Budget("cpu", "world, 32 clips", (78, 2.77, 30, 1.43, 0.022), (86, 3.05, 32, 1.58, 0.025)),
    Budget("cpu", "world, 128 clips", (78, 10.8, 30, 5.53, 0.049), (86, 11.9, 32, 6.1, 0.055)),
    Budget("cpu", "baseline", (78, 0.738, 31, 0.639, 0.140), (86, 0.82, 33, 0.71, 0.155)),
    Budget("cpu", "encoder", (34, 3.48, 18, 1.54, 0), (38, 3.83, 19, 1.7, 0)),
    Budget("cpu", "backbone", (16, 0.516, 6, 0.319, 0), (18, 0.57, 7, 0.36, 0)),
    # Forward passes alone, for an H200.
    Budget("cuda", "tokenizer", (89, 0.657, 37, 0.398, 0), (98, 0.73, 39, 0.44, 0)),
    Budget("cuda", "world, 32 clips", (41, 2.70, 16, 1.39, 0), (45, 2.97, 17, 1.53, 0)),
    Budget("cuda", "world, 128 clips", (41, 10.6, 16, 5.45, 0), (45, 11.7, 17, 6.0, 0)),
    Budget("cuda", "baseline", (38, 0.288, 13, 0.192, 0), (42, 0.32, 14, 0.22, 0)),
    Budget("cuda", "encoder", (16, 2.22, 18, 1.54, 0), (18, 2.45, 19, 1.7, 0)),
    Budget("cuda", "backbone", (8, 0.339, 6, 0.319, 0), (9, 0.38, 7, 0.36, 0)),
)


@functools.cache
def asked(device: str) -> dict[str, dict[str, Any]]:
    """What all steps ask of one device."""
    found: dict[str, dict[str, Any]] = json.loads("".join(printed(SCRIPT, "--json", "--device", device)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS, ids=[f"{budget.device}-{budget.step}" for budget in BUDGETS])
def test_a_step_stays_within_its_budget(budget: Budget) -> None:
    if budget.device == "cuda" and torch.version.cuda is None:
        pytest.skip("needs a CUDA build of torch")
    found = asked(budget.device)[budget.step]
    over = [
        f"{measure} {found[measure]:.3g}, limit {limit:g}, {before:g} when the limit was set"
        for measure, before, limit in zip(MEASURES, budget.found, budget.limit, strict=True)
        if found[measure] > limit
    ]
    assert not over, f"{budget.step} on {budget.device}: {'; '.join(over)}; calls: {found['library']}"


def test_limits_lie_just_above_what_was_found() -> None:
    for budget in BUDGETS:
        for before, limit in zip(budget.found, budget.limit, strict=True):
            assert before <= limit <= 1.2 * before, f"{budget.device}, {budget.step}: {before:g} and {limit:g}"
