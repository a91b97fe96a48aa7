"""Every reader works in the worker processes of a DataLoader, however they are started, read before or not."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from reader_datasets import READERS, AllReaders, look, open_readers
from small_training import make_features, make_shards
from torch.utils.data import DataLoader

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.featurize.per_process import PerProcess
from deltactl.train.tokenize_run import tokenize

PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def places(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    folder = tmp_path_factory.mktemp("readers")
    shards = make_shards(folder / "shards")
    features, tokens = make_features(shards, folder / "features"), str(folder / "tokens")
    tokenizer = str(golden / "deltatok.bin")
    tokenize(TokenizeConfig(data=features, out=tokens, tokenizer=tokenizer, device="cpu", workers=0))
    return shards, features, tokens


@pytest.fixture(scope="module")
def expected(places: tuple[str, str, str]) -> dict[str, float]:
    return {name: look(name, reader) for name, reader in open_readers(*places).items()}


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_read_what_the_parent_reads(
    places: tuple[str, str, str], expected: dict[str, float], method: str, read_before: bool
) -> None:
    readers = open_readers(*places)
    for name, reader in readers.items() if read_before else ():
        assert [look(name, reader) for _ in range(3)] == [expected[name]] * 3
    loader = DataLoader(
        AllReaders(readers),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context(method),
        timeout=PATIENCE_SECONDS,
    )
    for _ in range(2):
        found = {READERS[int(number)]: value for number, value in (item.tolist() for item in loader)}
        assert found == expected
    assert {name: look(name, reader) for name, reader in readers.items()} == expected, "the parent reads on"


@pytest.mark.parametrize("name", READERS)
def test_a_pickled_reader_reads_the_same(places: tuple[str, str, str], expected: dict[str, float], name: str) -> None:
    reader = open_readers(*places)[name]
    for _ in range(2):
        assert look(name, pickle.loads(pickle.dumps(reader))) == expected[name]
        assert look(name, reader) == expected[name]


def test_a_store_is_a_data_set_itself(places: tuple[str, str, str]) -> None:
    from deltactl.featurize.store import FeatureStore

    with FeatureStore.open(places[1]) as store:
        first = store.read_clips([0, 1])
        loader = DataLoader(store, batch_size=2, num_workers=2, timeout=PATIENCE_SECONDS)  # type: ignore[arg-type]
        batches = list(loader)
        assert sum(map(len, batches)) == len(store)
        assert (batches[0] == first).all()


def test_what_is_per_process_is_made_once_in_each() -> None:
    made: list[int] = []
    held: PerProcess[Any] = PerProcess(lambda: made.append(os.getpid()) or object())
    assert held.there() is None
    first = held.get()
    assert held.get() is first is held.there()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, b"1" if held.there() is None and held.get() is not first else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    os.close(writing)
    assert held.take() is first
    assert held.there() is None
    assert len(made) == 1
