"""`hf://` is a place to read wherever `s3://` is one: shards, stores and weights in repositories of the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, serve
from programs import caller
from shared_things import make

from deltactl.errors import StorageError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.verify import Verification
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.share.push import push
from deltactl.train.networks.deltatok import DeltaTok


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("things"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    with serve() as server:
        server.here(tmp_path / "home", monkeypatch)
        yield server
    HfFileSystem.clear_instance_cache()


def test_shards_and_stores_read_as_on_a_disk(things: dict[str, Path], hub: FakeHub) -> None:
    for kind in ("shards", "features", "tokens"):
        push(things[kind], f"me/{kind}")
        assert Verification.of(f"hf://datasets/me/{kind}").run() == []
    here, there = ShardSet.open(str(things["shards"])), ShardSet.open("hf://datasets/me/shards")
    assert there.units == here.units
    key = RandomAccess(here).keys(here.units[0])[0]
    assert RandomAccess(there).read(here.units[0], key, None) == RandomAccess(here).read(here.units[0], key, None)
    with FeatureStore.open(str(things["features"])) as disk, FeatureStore.open("hf://datasets/me/features") as remote:
        assert torch.equal(disk.read_clips([0, 5]), remote.read_clips([0, 5]))
    with TokenStore.open(str(things["tokens"])) as disk, TokenStore.open("hf://datasets/me/tokens") as remote:
        assert torch.equal(disk.read_clips([0, 3, 1]), remote.read_clips([0, 3, 1]))


def test_weights_and_runs_load(things: dict[str, Path], hub: FakeHub) -> None:
    push(things["network"], "me/weights")
    push(things["run"], "me/run")
    one, two = DeltaTok.from_pretrained("hf://me/weights"), DeltaTok.from_pretrained("hf://me/run")
    assert torch.equal(one.norm.weight, two.norm.weight)


def test_a_place_is_listed_measured_and_read_in_part(hub: FakeHub) -> None:
    hub.make("me/data", "dataset", {"a/b.txt": b"0123456789", "c.bin": bytes(range(250)) * 20})
    place = Location.of("hf://datasets/me/data")
    assert place.list() == ["a", "c.bin"]
    assert place.exists()
    assert not (place / "absent").exists()
    assert (place / "a" / "b.txt").read_bytes() == b"0123456789"
    assert (place / "c.bin").size() == 5000
    assert (place / "c.bin").read_range(-3) == bytes([247, 248, 249])
    assert (place / "c.bin").read_range(5, 9) == bytes([5, 6, 7, 8])
    with pytest.raises(FileNotFoundError):
        (place / "absent").read_bytes()


def test_nothing_is_written_there(hub: FakeHub) -> None:
    hub.make("me/data", "dataset", {"a.txt": b"0"})
    place = Location.of("hf://datasets/me/data")
    for write in (
        lambda: (place / "b.txt").write_bytes(b"1"),
        lambda: (place / "b.txt").create_bytes(b"1"),
        lambda: (place / "a.txt").remove(),
    ):
        with pytest.raises(StorageError, match="is on the Hub, which is only read so; write to a disk, then run"):
            write()
    assert hub.repo("me/data").files() == {"a.txt": b"0"}


def test_what_cannot_be_read_is_one_line(
    things: dict[str, Path], hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call: Callable[..., tuple[int, str, str]] = caller(capsys)
    code, _, errors = call("info", "hf://datasets/me/absent")
    assert (code, errors.count("\n")) == (1, 1)
    assert "hf://datasets/me/absent does not exist; expected a path, a URL" in errors
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, errors = call("info", "hf://datasets/me/other")
    assert (code, errors.count("\n")) == (1, 1)
    assert "hf://datasets/me/other cannot be read: the Hub does not answer; run the same command again" in errors
