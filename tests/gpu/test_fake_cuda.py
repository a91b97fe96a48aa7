"""On a GPU nothing of a step leaves it: training, featurizing and all of evaluation's predictions, traced without one.

Only where a CUDA build of torch is installed; it needs no card. `fake_cuda_runs.py` says what is traced.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import printed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch"),
]
SCRIPT = Path(__file__).parents[1] / "helpers" / "fake_cuda_runs.py"
TRAINING = (
    *("tokenizer from features", "tokenizer live", "baseline from features"),
    *("world from tokens", "world from features", "world live"),
)


@functools.cache
def traced() -> dict[str, dict[str, Any]]:
    """What all runs did."""
    found: dict[str, dict[str, Any]] = json.loads("".join(printed(SCRIPT)))
    return found


@pytest.mark.parametrize("name", ["featurize, bfloat16", "featurize, float32"])
def test_featurizing_stays_on_the_card_until_its_results_are_stored(name: str) -> None:
    found = traced()[name]
    assert found["devices"] == ["cuda"]
    assert found["types"] == ["bool", "float16"]
    assert found["crossings"] == {}


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_step_never_waits_for_the_card(name: str) -> None:
    found = traced()[name]
    assert found["devices"] == ["cuda"]
    assert found["types"] == ["float32"], "losses and figures"
    assert found["crossings"] == {}


def test_evaluation_sends_the_queries_of_each_horizon_and_nothing_comes_back() -> None:
    found = traced()["evaluation"]
    assert found["results"] == 45
    assert found["devices"] == ["cuda"]
    assert found["types"] == ["float32", "float64"]
    assert found["crossings"] == {"cpu to cuda": 4}, "queries and noise of two horizons"
