"""Every reader works in the worker processes of a DataLoader, however they are started, read before or not."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reader_datasets import READERS, AllReaders, look, open_readers
from small_stores import flip
from small_training import make_features, make_shards
from torch.utils.data import DataLoader

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import DamagedError
from deltactl.featurize.store.ranges_reader import RangesReader
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.locations import Location
from deltactl.per_process import PerProcess
from deltactl.tokenization.run import run as tokenize

PATIENCE_SECONDS = 300


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
    for _ in range(2 if method == "fork" else 1):  # workers of the other methods take seconds to start
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
    with FeatureStore.open(places[1]) as store:
        first = store.read_clips([0, 1])
        loader = DataLoader(store, batch_size=2, num_workers=2, timeout=PATIENCE_SECONDS)  # type: ignore[arg-type]
        batches = list(loader)
        assert sum(map(len, batches)) == len(store)
        assert (batches[0] == first).all()


def test_workers_leave_the_gpu_alone(places: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory belongs to the GPU, which a forked process cannot open; without one, asking for it fails here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with FeatureStore.open(places[1]) as store:
        with pytest.raises(RuntimeError):
            store.clip_buffer(1)
        loader = DataLoader(store, batch_size=8, num_workers=2, timeout=PATIENCE_SECONDS)  # type: ignore[arg-type]
        assert len(torch.cat(list(loader))) == len(store)


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


# --- object stores ---------------------------------------------------------------------------------------------------


def test_ranges_of_files_hold_what_a_store_reads(places: tuple[str, str, str]) -> None:
    """Features, and tokens of which a chunk is a whole clip."""
    for index, opened in ((1, FeatureStore), (2, TokenStore)):
        with opened.open(places[index]) as usual, opened.open(places[index]) as ranges:
            ranges._reader = PerProcess(partial(RangesReader, 4))
            samples = [5, 0, 17, 5]
            assert torch.equal(ranges.read_clips(samples), usual.read_clips(samples))
    with FeatureStore.open(places[1]) as usual, FeatureStore.open(places[1]) as ranges:
        ranges._reader = PerProcess(partial(RangesReader, 4))
        assert torch.equal(ranges.read_pairs([(3, 2), (0, 0)]), usual.read_pairs([(3, 2), (0, 0)]))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is missing; run: deltactl verify"),
        (lambda path: flip(path, 100), "frame 0 does not match its checksum"),
        (lambda path: flip(path, path.stat().st_size - 10), "the index at its end does not match"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "the index at its end does not match"),
        (lambda path: path.write_bytes(b""), "the index at its end does not match"),
    ],
)
def test_ranges_of_damaged_files_are_errors_that_name_them(
    places: tuple[str, str, str], tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    store = Path(shutil.copytree(places[1], tmp_path / "store"))
    harm(store / "v000" / "000000" / "features" / "c.0.0.0.0")
    with FeatureStore.open(str(store)) as opened:
        opened._reader = PerProcess(partial(RangesReader, 2))
        with pytest.raises(DamagedError, match=f"v000/000000/features/c.0.0.0.0.*{words}"):
            opened.read_clips([0])
        assert opened.read_clips([12]).isfinite().all(), "another file"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("method", "read_before"), [("fork", True), ("fork", False), ("spawn", True)])
def test_a_store_in_a_bucket_is_read_by_workers(
    places: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, method: str, read_before: bool
) -> None:
    """tensorstore, at work in the parent, ends a forked process that uses it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test-secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="stores")
        remote = Location.of("s3://stores/features")
        for path in sorted(Path(places[1]).rglob("*")):
            if path.is_file():
                (remote / path.relative_to(places[1]).as_posix()).upload(path)
        with FeatureStore.open(places[1]) as local, FeatureStore.open(remote) as store:
            if read_before:
                assert torch.equal(store.read_clips([3]), local.read_clips([3]))
            loader = DataLoader(
                store,  # type: ignore[arg-type]
                batch_size=8,
                num_workers=2,
                multiprocessing_context=multiprocessing.get_context(method),
                timeout=PATIENCE_SECONDS,
            )
            assert torch.equal(torch.cat(list(loader)), local.read_clips(range(len(local))))
            assert torch.equal(store.read_clips([3]), local.read_clips([3]))
    finally:
        server.stop()
