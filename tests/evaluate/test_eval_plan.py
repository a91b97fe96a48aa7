"""The plan of an evaluation: everything that is known before work begins, without a network and without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluations import GOLDEN, quiet, tiny

from deltactl.errors import CheckpointError
from deltactl.evaluate.plan import Plan, plan, settle
from deltactl.evaluate.run import run as run_evaluate
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.checkpoints.loading import Checkpoint, read_kind
from deltactl.train.networks.deltatok import TOKENIZER


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


def planned(**changes: Any) -> Plan:
    return plan(settle(tiny("vspw", **changes), {}, quiet), {})


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a network was loaded")


def test_a_plan_loads_no_network_and_writes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "load", refuse)
    monkeypatch.setattr(Checkpoint, "load", refuse)
    found = planned(rgb_head=str(GOLDEN / "head_rgb.bin"), pictures=1)
    assert not home.exists()
    kinds = {name: network.kind.name for name, network in found.networks.items()}
    assert kinds == {"tokenizer": "tokenizer", "world": "world", "dinoworld": "dinoworld", "head": "vspw"}
    assert (found.backbone.dim, found.cached, found.notes) == (128, True, ())
    assert found.cache.missing_bytes() > (0, 0)
    assert str(found.report).startswith(f"{home / 'reports' / 'vspw-val-backbone-64'}-")


def test_a_plan_says_what_is_left_out_and_what_is_streamed(home: Path) -> None:
    found = planned(tokenizer=None, world=None, limit=2)
    assert [note.partition(":")[0] for note in found.notes] == [
        "no --tokenizer",
        "no --tokenizer and --world",
        "the cache is not complete",
    ]
    assert found.networks.keys() == {"dinoworld", "head"}
    assert not found.cached


def test_a_plan_knows_what_the_cache_has_by_now(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_evaluate(tiny("vspw"), quiet)
    monkeypatch.setattr(Backbone, "load", refuse)
    found = planned(limit=2)
    assert found.cached, "complete as it is"
    assert found.cache.missing_bytes() == (0, 0)
    assert planned().report == report.folder
    again = run_evaluate(tiny("vspw"), quiet)
    assert again.metrics == report.metrics


def test_what_does_not_fit_is_found_in_the_plan(home: Path) -> None:
    with pytest.raises(CheckpointError, match="--tokenizer: .*deltaworld.bin is a .* was expected here"):
        planned(tokenizer=str(GOLDEN / "deltaworld.bin"))


def test_a_checkpoint_can_be_loaded_twice() -> None:
    checkpoint = read_kind(GOLDEN / "deltatok.bin", TOKENIZER)
    first, second = checkpoint.load(), checkpoint.load()
    assert first is not second
    assert all(parameter.is_meta for parameter in checkpoint.network.parameters()), "the empty one stays empty"
