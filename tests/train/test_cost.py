"""Checkpoints say what they cost: starts add up, weights that were begun from count, what is not known is not told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import make_features, make_shards, tokenizer_config

from deltactl.train.callbacks.cost import Cost
from deltactl.train.checkpoints.cost import cost_of
from deltactl.train.checkpoints.files import find
from deltactl.train.checkpoints.trained import provenance_of
from deltactl.train.run import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("cost")
    return make_features(make_shards(root / "shards"), root / "features")


def cost_in(run: Path) -> dict[str, Any]:
    return cost_of(provenance_of(find(str(run))))


def test_starts_and_the_weights_that_were_begun_from_add_up(store: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(tokenizer_config(store, first, steps=10), "first")
    hours = cost_in(first)["device_hours"]
    assert cost_in(first)["device"] == "CPU"
    assert cost_in(first)["devices"] == 1
    assert 0 < hours < 0.1

    train(tokenizer_config(store, first, steps=20, resume="auto"), "first")
    resumed = cost_in(first)["device_hours"]
    assert resumed > hours

    train(tokenizer_config(store, tmp_path / "second", steps=5, init=str(first)), "second")
    assert cost_in(tmp_path / "second")["device_hours"] > resumed

    small = torch.load(find(str(first)).path, weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network."): value for name, value in small.items()}, tmp_path / "bare.bin")
    train(tokenizer_config(store, tmp_path / "third", steps=5, init=str(tmp_path / "bare.bin")), "third")
    assert cost_in(tmp_path / "third")["device_hours"] is None, "weights of unknown cost"


def test_a_state_of_an_earlier_version_leaves_the_cost_unknown() -> None:
    cost = Cost(None)
    assert cost.device_hours is None
    cost.load_state_dict({"device_hours": 2.5})
    assert cost.device_hours == 2.5
    assert cost.state_dict() == {"device_hours": 2.5}


@pytest.mark.parametrize("said", [None, "much", {"device_hours": -1}, {"device_hours": True}, {"device_hours": 1e400}])
def test_a_header_from_elsewhere_may_say_anything(said: object) -> None:
    assert cost_of({"cost": said})["device_hours"] is None
