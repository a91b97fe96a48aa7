"""Artifacts live on S3 as on a disk: a real protocol server on loopback, whole-or-nothing publishing, clear errors."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from deltactl.artifacts import Identity, open_artifact, read_header
from deltactl.claims import hold, share
from deltactl.errors import ArtifactError, ClaimedError, IdentityError, StorageError
from deltactl.ingest.shards.format import Clip, ClipMeta, ShardSet, finish, write_shard
from deltactl.locations import Location
from deltactl.staging import publish_files, publish_folder
from deltactl.unit_claims import UnitClaims

# moto, botocore and aiohttp leave sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_bytes_come_back(bucket: Location) -> None:
    place = bucket / "file"
    assert (place.exists(), bucket.list()) == (False, [])
    with pytest.raises(FileNotFoundError):
        place.read_bytes()
    place.write_bytes(b"hello")
    assert (place.read_bytes(), place.size(), bucket.list()) == (b"hello", 5, ["file"])
    with place.open() as file:
        file.seek(1)
        assert file.read(3) == b"ell"
    bucket.remove()
    assert bucket.list() == []


def test_an_artifact_is_claimed_once(bucket: Location) -> None:
    open_artifact(bucket / "set", Identity("features", {"size": 512}), {})
    assert read_header(bucket / "set").identity.values == {"size": 512}
    with pytest.raises(IdentityError, match="size is 512 there, 256 here"):
        open_artifact(bucket / "set", Identity("features", {"size": 256}), {})
    with pytest.raises(ArtifactError, match=r"/other does not exist; expected an artifact"):
        read_header(bucket / "other")


def test_the_marker_is_written_last_and_replaced_first(bucket: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    upload, remove = Location.upload, Location.remove
    monkeypatch.setattr(Location, "upload", lambda self, path: (written.append(self.name), upload(self, path))[1])
    monkeypatch.setattr(Location, "remove", lambda self: (written.append(f"-{self.name}"), remove(self))[1])
    with publish_folder(bucket, "v000/000000") as folder:
        (folder / "c").mkdir()
        (folder / "c" / "0").write_bytes(b"data")
        (folder / "a.json").write_bytes(b"{}")
        (folder / "zarr.json").write_bytes(b"{}")
    assert written == ["a.json", "0", "zarr.json"]
    assert (bucket / "v000/000000/c/0").read_bytes() == b"data"
    for replace, expected in ((False, []), (True, ["-0.json", "0.tar", "0.json"])):
        (bucket / "0.json").write_bytes(b"there")
        written.clear()
        with publish_files(bucket, "0.json", replace=replace) as folder:
            (folder / "0.json").write_bytes(b"new")
            (folder / "0.tar").write_bytes(b"new")
        assert written == expected
        assert (bucket / "0.json").read_bytes() == (b"new" if replace else b"there")


def test_nothing_is_uploaded_when_the_work_fails(bucket: Location) -> None:
    with pytest.raises(RuntimeError, match="half way"), publish_folder(bucket, "g") as folder:
        (folder / "zarr.json").write_bytes(b"{}")
        raise RuntimeError("half way")
    assert bucket.list() == []


def test_shards_are_written_and_read(bucket: Location) -> None:
    root = bucket / "shards"
    open_artifact(root, Identity("shards", {}), {})
    meta = ClipMeta("a.mp4", "folder", (0.0,), (0,), (8, 8), "pyav")
    clips = [Clip(f"key{number}", meta, [b"not really a picture"], source_name="a.mp4") for number in range(3)]
    write_shard(root, "000000", clips, [], {})
    finish(root)
    shards = ShardSet.open(str(root))
    assert list(shards.read("000000")) == clips


def test_zarr_and_tensorstore_see_the_same_place(bucket: Location) -> None:
    import tensorstore
    import zarr

    group = zarr.open_group((bucket / "store").url, mode="w")
    group.create_array("a", data=np.arange(5))
    kvstore = (bucket / "store" / "a").tensorstore()
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result(timeout=60)
    assert array.read().result(timeout=60).tolist() == [0, 1, 2, 3, 4]


def test_a_store_that_is_down_is_a_clear_error(bucket: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free.getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"could not read s3://deltactl/home/x: .*[Cc]onnect"):
        (bucket / "x").read_bytes()
    assert time.monotonic() - started < 60


def test_a_file_is_created_once_and_a_claim_keeps_others_out(bucket: Location) -> None:
    assert [(bucket / "unit").create_bytes(text) for text in (b"first", b"second")] == [True, False]
    assert (bucket / "unit").read_bytes() == b"first"
    with hold(bucket), pytest.raises(ClaimedError, match=f"{bucket} is being written by process"), hold(bucket):
        pass
    with share(bucket) as claim, UnitClaims(claim) as one, share(bucket) as claim, UnitClaims(claim) as other:
        drawn = [next(each.rounds("ab", name=str, is_made=lambda _: False, passed=print)) for each in (one, other)]
        assert [list(units) for units in drawn] == [["a", "b"], []]
    assert (bucket / ".claims").list() == []
