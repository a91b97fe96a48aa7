"""An object store that fails now and then changes nothing; one that stays down is a clear error in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flaky_s3 import KINDS, FlakyS3
from small_shards import training_shards
from small_stores import contents, run
from videos import make_video

from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import StorageError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.verify import Verification
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.staging import publish_folder
from deltactl.tokenization.run import run as tokenize

# moto, botocore and aiohttp leave sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    import boto3

    server = FlakyS3()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=server.endpoint)
    client.create_bucket(Bucket="flaky")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="flaky"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="flaky", Key=item["Key"])
    yield server
    server.close()


@pytest.fixture
def bucket(server: FlakyS3) -> Location:
    return Location.of("s3://flaky/home")


def test_each_operation_survives_each_failure(server: FlakyS3, bucket: Location, tmp_path: Path) -> None:
    server.faults = True
    data = bytes(range(256)) * 4000
    (tmp_path / "file").write_bytes(data)
    for number in range(len(KINDS)):
        place = bucket / f"folder{number}" / "file"
        assert not place.exists()
        place.write_bytes(data)
        (bucket / f"folder{number}" / "other").upload(tmp_path / "file")
        assert place.read_bytes() == data
        with place.open() as file:
            file.seek(1000)
            assert file.read(5000) == data[1000:6000]
        assert place.size() == len(data)
        assert place.parent.list() == ["file", "other"]
        place.parent.remove()
        assert place.parent.list() == []
    assert set(server.injected) == set(KINDS)


def test_shards_features_and_tokens_come_out_as_on_a_disk(
    server: FlakyS3, bucket: Location, tmp_path: Path, golden: Path
) -> None:
    for number in range(2):
        make_video(tmp_path / "in" / f"{number}.mp4", frames=20)
    server.faults = True
    remote = {name: str(bucket / name) for name in ("shards", "features", "tokens")}
    local = {name: str(tmp_path / name) for name in remote}
    for places in (local, remote):
        settings = {"source": str(tmp_path / "in"), "dataset": "folder", "shard_clips": 1, "size": 64, "workers": 0}
        run_ingest(IngestConfig(**settings, out=places["shards"]))
        run(places["shards"], places["features"], views="2")  # type: ignore[arg-type]
        tokenizer = str(golden / "deltatok.bin")
        tokenize(
            TokenizeConfig(data=places["features"], tokenizer=tokenizer, out=places["tokens"], device="cpu", workers=0)
        )
    for unit in ShardSet.open(local["shards"]).units:
        assert list(ShardSet.open(remote["shards"]).read(unit)) == list(ShardSet.open(local["shards"]).read(unit))
    for kind, name in ((FeatureStore, "features"), (TokenStore, "tokens")):
        with kind.open(local[name]) as here, kind.open(remote[name]) as there:
            assert here.keys == there.keys
            samples = list(range(len(here)))
            assert torch.equal(here.read_clips(samples), there.read_clips(samples))
        assert Verification.of(bucket / name).run() == []
        for path, data in contents(Path(local[name])).items():
            assert (bucket / name / path).read_bytes() == data
    assert len(server.injected) > 50
    assert set(server.injected) == set(KINDS)


@pytest.mark.parametrize("down", ["refuse", "silence"])
def test_a_store_that_stays_down_is_an_error_in_time(
    server: FlakyS3, bucket: Location, tmp_path: Path, down: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltactl.featurize.store.remote_reader.RETRIES", 3)
    training_shards(tmp_path / "shards")
    (bucket / "file").write_bytes(b"there")
    run(tmp_path / "shards", bucket / "store")  # type: ignore[arg-type]
    store = FeatureStore.open(bucket / "store")
    server.down = down
    monkeypatch.setattr("deltactl.locations.REMOTE_TIMEOUT_SECONDS", 3.0)
    started = time.monotonic()
    with pytest.raises(StorageError, match="could not read s3://flaky/home/file"):
        (bucket / "file").read_bytes()
    with pytest.raises(StorageError, match="could not write s3://flaky/home/file"):
        (bucket / "file").write_bytes(b"new")
    with pytest.raises(StorageError, match=r"s3://flaky/home/group"), publish_folder(bucket, "group") as folder:
        (folder / "zarr.json").write_bytes(b"{}")
    with pytest.raises(StorageError, match="could not read s3://flaky/home/store.*|did not arrive within 15 s"):
        store.start_clips([0]).result(timeout_seconds=15)
    assert time.monotonic() - started < 60
    server.down = None
    store.close()
    monkeypatch.setattr("deltactl.locations.REMOTE_TIMEOUT_SECONDS", 120.0)
    assert (bucket / "file").read_bytes() == b"there"
    assert not (bucket / "group").exists()
