"""Killed at any moment and run again, a featurize gives the same bytes as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_shards import training_shards
from small_stores import TOKENIZER, contents, run, settings, tokens

from deltactl.configs.base import Config
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import StorageError
from deltactl.featurize.pipeline.pipeline import Pipeline
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.writer import GroupWriter
from deltactl.featurize.verify import Verification
from deltactl.locations import Location

VIEWS = "4"


def start(shards: Path, store: Path) -> subprocess.Popen[bytes]:
    return start_stage("Featurize", "featurize", settings(shards, store, views=VIEWS))


def start_stage(config_name: str, room: str, config: Config) -> subprocess.Popen[bytes]:
    code = (
        f"import sys; from deltactl.configs.{config_name.lower()} import {config_name}Config as Config;"
        f"from deltactl.{room}.run import run; run(Config.model_validate_json(sys.argv[1]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, config.model_dump_json()], env=environment, stderr=-3)


def groups(store: Path) -> int:
    return sum(len(units) for units in published(Location.of(store)).values())


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_gives_the_same_bytes(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=10)
    run(tmp_path / "shards", tmp_path / "whole", views=VIEWS)
    moments = random.Random(5)
    store = tmp_path / "store"
    for wanted in (0, 7, 23):
        process = start(tmp_path / "shards", store)
        while process.poll() is None and (groups(store) < wanted or not store.exists()):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wanted <= groups(store) < 40, "killed in the middle"
    with pytest.raises(Exception, match="has not ended"):
        FeatureStore.open(str(store))
    summary = run(tmp_path / "shards", store, views=VIEWS)
    assert summary.skipped >= 23 * 3
    assert contents(store) == contents(tmp_path / "whole")
    assert (store / "index.json").stat().st_size == (tmp_path / "whole" / "index.json").stat().st_size
    assert Verification.of(str(store)).run() == []
    assert not [path for path in tmp_path.glob(".store.partial/*") if path.is_dir()]


@pytest.mark.slow
def test_tokens_killed_at_random_moments_are_packed_to_the_same_bytes(tmp_path: Path) -> None:
    """Before, in and after the packing of the first 64 shards."""
    training_shards(tmp_path / "shards", units=66, clips=1)
    run(tmp_path / "shards", tmp_path / "features")
    tokens(tmp_path / "features", tmp_path / "whole")
    config = TokenizeConfig(
        data=str(tmp_path / "features"), out=str(tmp_path / "store"), tokenizer=TOKENIZER, device="cpu", workers=0
    )
    moments, store = random.Random(7), tmp_path / "store"
    for wanted in (0, 30, 64):
        process = start_stage("Tokenize", "tokenization", config)
        while process.poll() is None and (not store.exists() or groups(store) < wanted):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert groups(store) >= wanted
    tokens(tmp_path / "features", store)
    assert contents(store) == contents(tmp_path / "whole")
    assert (store / "index.json").read_bytes() != b""
    assert Verification.of(str(store)).run() == []


@pytest.mark.parametrize("moment", [1, 3, 5])
def test_a_write_that_fails_publishes_nothing_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    training_shards(tmp_path / "shards", units=3)
    real, calls = GroupWriter.put, [0]

    def put(self: GroupWriter, *values: object) -> None:
        calls[0] += 1
        if calls[0] > moment * 9 // 2:
            raise StorageError("could not write: no space left")
        real(self, *values)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "put", put)
        with pytest.raises(StorageError, match="no space left"):
            run(tmp_path / "shards", tmp_path / "store")
    assert groups(tmp_path / "store") == moment // 2
    assert run(tmp_path / "shards", tmp_path / "store").skipped == moment // 2 * 3
    run(tmp_path / "shards", tmp_path / "whole")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_an_interrupt_leaves_what_is_whole_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_shards(tmp_path / "shards", units=2)
    run(tmp_path / "shards", tmp_path / "store")
    real = Pipeline.run

    def interrupted(self: Pipeline, *values: object) -> object:
        for result in real(self, *values):  # type: ignore[arg-type]
            yield result
            raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "shards", tmp_path / "store", views="2")
    assert groups(tmp_path / "store") == 3
    assert FeatureStore.open(str(tmp_path / "store")).views == (0,)
    monkeypatch.undo()
    assert run(tmp_path / "shards", tmp_path / "store", views="2").skipped == 9
    assert FeatureStore.open(str(tmp_path / "store")).views == (0, 1)


@pytest.mark.slow
def test_two_processes_at_once_make_one_store(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=4)
    run(tmp_path / "shards", tmp_path / "whole", views=VIEWS)
    processes = [start(tmp_path / "shards", tmp_path / "store") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert Verification.of(str(tmp_path / "store")).run() == []
