"""Where a GPU has no memory left, batches are halved, with a word; groups are as if they had always been so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_shards import training_shards
from small_stores import BACKBONE, contents, run, settings

from deltactl.artifacts import Identity
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.loading import load_pipeline
from deltactl.featurize.pipeline.batches import Batcher
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.pipeline.events import Job
from deltactl.featurize.pipeline.fill import GroupFill
from deltactl.featurize.pipeline.read import ShardReader
from deltactl.featurize.store.packing import unpack
from deltactl.featurize.store.packs import Listing, Pack
from deltactl.locations import Location
from deltactl.tokenization.encoder import Encoder
from deltactl.tokenization.run import run as tokenize

TOKENIZER = str(Path(__file__).parent / "golden" / "deltatok.bin")
Monkey = pytest.MonkeyPatch
Log = pytest.LogCaptureFixture


def limit(monkeypatch: Monkey, most: Callable[[int], int]) -> list[int]:
    """Let the backbone's n-th batch fail with more than `most(n)` frames; return the sizes of those computed."""
    plain = Computer._features
    sizes: list[int] = []
    calls = iter(range(10**6))

    def features(self: Computer, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(frames) > most(next(calls)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        sizes.append(len(frames))
        return plain(self, frames)

    monkeypatch.setattr(Computer, "_features", features)
    return sizes


def told(caplog: Log) -> list[str]:
    return [message for message in caplog.messages if "no memory" in message]


def test_too_large_a_batch_is_halved_until_it_fits_and_the_store_is_as_if_asked_for(
    tmp_path: Path, monkeypatch: Monkey, caplog: Log
) -> None:
    training_shards(tmp_path / "shards", clips=5)
    run(tmp_path / "shards", tmp_path / "small", views="2", batch_size=2)
    sizes = limit(monkeypatch, lambda _: 3)
    summary = run(tmp_path / "shards", tmp_path / "halved", views="2", batch_size=8)
    assert contents(tmp_path / "halved") == contents(tmp_path / "small")
    assert (summary.done, summary.quarantined) == (20, 0)
    assert max(sizes) == 2
    assert told(caplog) == ["cpu has no memory for batches of 8 frames; 2 fit (to begin so: --batch-size 2)"]


def test_memory_that_runs_full_in_the_middle_begins_its_job_anew_and_leaves_finished_groups(
    tmp_path: Path, monkeypatch: Monkey, caplog: Log
) -> None:
    shards = training_shards(tmp_path / "shards", units=3, clips=5)
    for size in (6, 3):
        run(tmp_path / "shards", tmp_path / str(size), batch_size=size)
    # 15 frames of a shard are three batches of 6; the fifth, the second of the second shard, finds the memory full.
    limit(monkeypatch, lambda number: 6 if number < 4 else 3)
    heard: list[int] = []
    store, identity = Location.of(tmp_path / "store"), Identity("features", {"crops": "augment"})
    pipeline = load_pipeline(
        settings(tmp_path, tmp_path, batch_size=6), ShardReader(shards), 3, store, identity, "augment", "cpu"
    )
    results = list(pipeline.run([Job(0, unit) for unit in shards.units], heard.append))
    assert [result.job.unit for result in results] == ["000000", "000002", "000001"]
    assert sum(heard) == 15, "each clip is heard of once"
    assert len(told(caplog)) == 1
    arrays = {size: contents(tmp_path / str(size)) for size in (6, 3)}
    made = contents(tmp_path / "store")
    for unit, size in (("000000", 6), ("000001", 3), ("000002", 3)):
        name = f"v000/{unit}/features/c.0.0.0.0"
        assert made[name] == arrays[size][name]
        assert f'"batch_size":{size},'.encode() in made[f"v000/{unit}/zarr.json"]
    assert set(pipeline.seconds) == {"reading", "decoding", "the backbone", "writing"}


def test_a_group_that_closes_after_batches_got_smaller_says_its_own_size(tmp_path: Path, monkeypatch: Monkey) -> None:
    training_shards(tmp_path / "shards", units=2, clips=1)
    limit(monkeypatch, lambda number: 3 if number < 1 else 1)
    shrunk = threading.Event()
    shrink, close = Batcher._shrink, GroupFill.close

    def tell(self: Batcher) -> None:
        shrink(self)
        shrunk.set()

    def wait(self: GroupFill, *args: Any) -> Any:
        assert self.opened.job.unit != "000000" or shrunk.wait(30), "the next job is computed while this one is closed"
        return close(self, *args)

    monkeypatch.setattr(Batcher, "_shrink", tell)
    monkeypatch.setattr(GroupFill, "close", wait)
    run(tmp_path / "shards", tmp_path / "store", batch_size=3)
    sizes = [(tmp_path / f"store/v000/{unit}/zarr.json").read_text() for unit in ("000000", "000001")]
    assert '"batch_size":3,' in sizes[0]
    assert '"batch_size":1,' in sizes[1]


def test_no_memory_for_a_single_frame_is_an_error_of_one_line(tmp_path: Path, monkeypatch: Monkey) -> None:
    training_shards(tmp_path / "shards")
    limit(monkeypatch, lambda _: 0)
    with pytest.raises(ConfigError, match=r"the memory of cpu is full even for one frame of 64 px; end other"):
        run(tmp_path / "shards", tmp_path / "store")
    assert not (tmp_path / "store" / "v000").exists()


def test_no_memory_for_the_weights_is_an_error_of_one_line(tmp_path: Path, monkeypatch: Monkey) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    with pytest.raises(ConfigError, match=r"the memory of cpu is full even for the weights of .*backbone; end other"):
        run(tmp_path / "shards", tmp_path / "store")


def test_other_errors_of_the_device_end_the_command(tmp_path: Path, monkeypatch: Monkey) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(Computer, "_features", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(tmp_path / "shards", tmp_path / "store")


# --- tokenize ---


@pytest.fixture(params=["features", "shards"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    training_shards(tmp_path / "shards", clips=5)
    if request.param == "features":
        run(tmp_path / "shards", tmp_path / "features")
    return str(tmp_path / request.param)


def make_tokens(data: str, out: Path) -> dict[str, bytes]:
    config = TokenizeConfig(
        data=data, out=str(out), tokenizer=TOKENIZER, backbone=str(BACKBONE), size=64, device="cpu", workers=0
    )
    assert tokenize(config).done == 10
    root = Location.of(out)
    (name,) = Listing.of(root).packs[0]
    pack = Pack.read(root, 0, name)
    unpack(pack, list(pack.members))  # each group by itself, with what it says of how it was made
    return contents(out)


@pytest.fixture
def encoder_limit(monkeypatch: Monkey) -> Callable[[Callable[[int], int]], None]:
    plain = Encoder._tokens
    calls = iter(range(10**6))

    def set_limit(most: Callable[[int], int]) -> None:
        def tokens(self: Encoder, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if len(features) > most(next(calls)):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return plain(self, features)

        monkeypatch.setattr(Encoder, "_tokens", tokens)

    return set_limit


def clips_at_once(made: dict[str, bytes], unit: str) -> int:
    attributes = json.loads(made[f"v000/{unit}/zarr.json"])["attributes"]
    return int(attributes["provenance"]["tokenizer"]["clips_at_once"])


def test_fewer_clips_are_encoded_at_once(
    data: str, tmp_path: Path, monkeypatch: Monkey, caplog: Log, encoder_limit: Any
) -> None:
    monkeypatch.setattr("deltactl.tokenization.encoder.CPU_CLIPS", 1)
    one = make_tokens(data, tmp_path / "one")
    monkeypatch.setattr("deltactl.tokenization.encoder.CPU_CLIPS", 4)
    encoder_limit(lambda _: 1)
    assert make_tokens(data, tmp_path / "halved") == one
    assert told(caplog) == ["cpu has no memory to encode 4 clips at once; 1 fit"]


def test_a_group_of_tokens_is_made_anew_when_memory_runs_full_in_its_middle(
    data: str, tmp_path: Path, caplog: Log, encoder_limit: Any
) -> None:
    # Five clips are three batches; the fifth batch lies in the second group.
    encoder_limit(lambda number: 2 if number < 4 else 1)
    made = make_tokens(data, tmp_path / "tokens")
    assert [clips_at_once(made, unit) for unit in ("000000", "000001")] == [2, 1]
    assert len(told(caplog)) == 1


def test_no_memory_for_a_single_clip_is_an_error_of_one_line(data: str, tmp_path: Path, encoder_limit: Any) -> None:
    encoder_limit(lambda _: 0)
    with pytest.raises(ConfigError, match=r"the memory of cpu is full even for one clip of 3 frames; end other"):
        make_tokens(data, tmp_path / "tokens")


def test_smaller_batches_of_the_backbone_make_the_same_tokens(tmp_path: Path, monkeypatch: Monkey, caplog: Log) -> None:
    training_shards(tmp_path / "shards", clips=5)
    whole = make_tokens(str(tmp_path / "shards"), tmp_path / "whole")
    limit(monkeypatch, lambda _: 2)
    there: list[int] = []
    start_here = Computer.start_here

    def watched(self: Computer, frames: torch.Tensor) -> Any:
        there.append(len(frames))
        return start_here(self, frames)

    monkeypatch.setattr(Computer, "start_here", watched)
    halved = make_tokens(str(tmp_path / "shards"), tmp_path / "halved")
    assert sum(there) >= 30, "features stay where they are computed"
    assert len(told(caplog)) == 1
    assert whole.keys() == halved.keys()
    assert b'"batch_size":2,' in halved["v000/000000/zarr.json"]
