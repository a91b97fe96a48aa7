"""A place is a path or a URL; writes are whole or not at all, and failures are sentences."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deltactl.errors import DamagedError, StorageError
from deltactl.locations import Location


def test_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("a/../b").url == str(tmp_path / "b")
    assert Location.of(f"file://{tmp_path}/x").url == str(tmp_path / "x")
    assert Location.of("s3://bucket/x/").url == "s3://bucket/x"
    assert Location.of(Location("s3://b")).url == "s3://b"
    assert (Location.of("s3://bucket") / "a" / "b").parent.name == "a"
    assert (Location.of("/") / "a").url == "/a"


def test_a_remote_location_has_no_path() -> None:
    with pytest.raises(ValueError, match="s3://bucket/x is not a local path"):
        _ = Location.of("s3://bucket/x").path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "deep" / "file"
    assert not place.exists()
    place.write_bytes(b"one")
    place.write_bytes(b"three")
    assert place.exists()
    assert (place.read_bytes(), place.size(), place.parent.list()) == (b"three", 5, ["file"])
    with place.open() as file:
        assert file.read() == b"three"
    place.remove()
    place.remove()
    assert place.parent.list() == []
    assert Location.of(tmp_path / "nothing").list() == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Location.of(tmp_path) / "file"
    place.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="could not write .*Input/output error"):
        place.write_bytes(b"new")
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "x.json"
    for text in ("ü", os.fsdecode(b"not UTF-8: \x80"), "two\u2028lines\x85"):
        place.write_json({"a": text})
        assert place.read_json() == {"a": text}
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        place.write_bytes(content)
        with pytest.raises(DamagedError, match=r"x.json is damaged: expected JSON"):
            place.read_json()


def test_an_absent_file_is_the_callers_matter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (Location.of(tmp_path) / "absent").read_bytes()


def test_free_space_is_that_of_the_disk_that_will_hold_it(tmp_path: Path) -> None:
    assert Location.of(tmp_path / "not" / "yet").free_bytes() is not None
    assert Location.of("s3://bucket/x").free_bytes() is None


def test_each_library_gets_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Location.of(tmp_path).tensorstore() == {"driver": "file", "path": f"{tmp_path}/"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert Location.of("s3://bucket/a/b").tensorstore() == {
        "driver": "s3",
        "bucket": "bucket",
        "path": "a/b/",
        "aws_region": "us-east-1",
        "endpoint": "http://127.0.0.1:9",
        "aws_credentials": {"type": "environment"},
    }
    with pytest.raises(StorageError, match=r"not under memory://"):
        Location.of("memory://x").tensorstore()


def test_other_schemes_work_through_fsspec() -> None:
    place = Location.of("memory://folder/file")
    place.write_bytes(b"x")
    assert place.read_bytes() == b"x"
    assert place.parent.list() == ["file"]
    place.parent.remove()
    assert not place.exists()
