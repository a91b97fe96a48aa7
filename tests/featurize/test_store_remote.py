"""Shards and stores under s3://: made, opened, read and verified as on a disk; moto answers on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zarr
from small_shards import training_shards
from small_stores import run

from deltactl.errors import DamagedError
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.remote_reader import RemoteReader
from deltactl.featurize.verify import Verification
from deltactl.locations import Location

# moto, botocore and aiohttp leave sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="stores")
    yield Location.of("s3://stores/home")
    server.stop()


def test_a_store_in_a_bucket_is_made_read_and_verified(tmp_path: Path, bucket: Location) -> None:
    shards = training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "local", views="2")
    for name in shards.root.list():
        (bucket / "shards" / name).upload(shards.root.path / name)
    remote = bucket / "store"
    run(bucket / "shards", remote, views="2")  # type: ignore[arg-type]
    with FeatureStore.open(remote) as store, FeatureStore.open(str(tmp_path / "local")) as local:
        samples = list(range(len(local)))
        assert store.keys == local.keys
        assert torch.equal(store.read_clips(samples), local.read_clips(samples))
        assert torch.equal(store.read_pairs([(7, 1), (0, 0)]), local.read_pairs([(7, 1), (0, 0)]))
        assert torch.equal(store.times(samples), local.times(samples))
        assert torch.equal(store.black, local.black)
        assert isinstance(store._reader.there(), RemoteReader)
    group = zarr.open_group(f"{remote.url}/v001/000001", mode="r")
    assert group["features"].shape == (3, 3, 16, 128)
    assert Verification.of(remote).run() == []

    # An upload that was broken off is no group, and is made again.
    (remote / "v001/000001/zarr.json").remove()
    assert published(remote) == {0: ["000000", "000001"], 1: ["000000"]}
    assert run(bucket / "shards", remote, views="2").done == 3  # type: ignore[arg-type]
    assert Verification.of(remote).run() == []

    (remote / "v000/000001/features/c.0.0.0.0").remove()
    with FeatureStore.open(remote) as store, pytest.raises(DamagedError, match=r"v000/000001: clip .*missing"):
        store.read_clips(samples)
    (finding,) = Verification.of(remote).run()
    assert (finding.kind, finding.unit) == ("missing", "v000/000001")
