"""Shards are plain WebDatasets that know when they are not whole; labels keep their depth."""

from __future__ import annotations

import errno
import gc
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from deltactl.artifacts import Identity, Quarantined, canonical_json, open_artifact, read_quarantine, seal
from deltactl.errors import ArtifactError, DamagedError, SourceError, StorageError
from deltactl.ingest.shards.format import Clip, ClipMeta, ShardSet, finish, write_shard
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.locations import Location


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


FRAME = np.arange(32 * 48 * 3, dtype=np.uint32).reshape(32, 48, 3).astype(np.uint8)
DEPTH = (np.arange(32 * 48, dtype=np.uint16) * 37).reshape(32, 48)
BAD = Quarantined("bad.mp4", "cut short", "000001")


def clip(number: int) -> Clip:
    meta = ClipMeta(f"a/ü {number}.mp4", "kitti", (0.0, 0.2), (3, 5), (375, 1242), "pyav")
    return Clip(f"drive_{number:03}", meta, [png(FRAME), png(FRAME[:, ::-1])], "png", {1: png(DEPTH)}, "depth", "drive")


@pytest.fixture
def root(tmp_path: Path) -> Location:
    place = Location.of(tmp_path) / "shards" / "kitti"
    open_artifact(place, Identity("shards", {"seed": 0}), {})
    write_shard(place, "000000", map(clip, range(3)), [], {"decoder": "pyav"})
    write_shard(place, "000001", map(clip, range(3, 5)), [BAD], {"decoder": "pyav"})
    finish(place)
    return place


def test_what_was_written_is_read(root: Location) -> None:
    shards = ShardSet.open(str(root))
    assert (shards.units, shards.count, shards.complete) == (["000000", "000001"], 5, True)
    assert shards.keys("000001") == ("drive_003", "drive_004")
    clips = [each for unit in shards.units for each in shards.read(unit)]
    assert clips == [clip(number) for number in range(5)]
    np.testing.assert_array_equal(decode_frame(clips[0].frames[1]), FRAME[:, ::-1])
    assert decode_label(clips[0].labels[1]).dtype == np.uint16
    np.testing.assert_array_equal(decode_label(clips[0].labels[1]), DEPTH)
    assert read_quarantine(root) == [BAD]


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_every_sample(root: Location) -> None:
    tars = [str(root / f"{unit}.tar") for unit in ("000000", "000001")]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"drive_{number:03}" for number in range(5)]
    assert {"000.png", "001.png", "001.depth.png", "json"} <= samples[0].keys()
    assert samples[0]["001.depth.png"] == png(DEPTH)
    gc.collect()


def test_equal_clips_give_equal_bytes(root: Location) -> None:
    before = {name: (root / name).read_bytes() for name in root.list()}
    write_shard(root, "000000", map(clip, range(3)), [], {"decoder": "pyav"}, replace=True)
    finish(root)
    assert {name: (root / name).read_bytes() for name in root.list()} == before


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 0.999), cut=st.booleans())
def test_one_damaged_or_missing_byte_is_found_and_named(root: Location, position: float, cut: bool) -> None:
    tar = root / "000000.tar"
    original = tar.read_bytes()
    place = int(position * len(original))
    damaged = original[:place] if cut else original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :]
    tar.write_bytes(damaged)
    try:
        with pytest.raises(DamagedError, match=r"000000\.tar is damaged"):
            list(ShardSet.open(root).read("000000"))
    finally:
        tar.write_bytes(original)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 0.999), cut=st.booleans())
def test_damage_is_found_in_one_pass_too_before_the_last_clip_can_be_taken_for_the_last(
    root: Location, position: float, cut: bool
) -> None:
    tar = root / "000000.tar"
    original = tar.read_bytes()
    place = int(position * len(original))
    tar.write_bytes(
        original[:place] if cut else original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :]
    )
    seen = []
    try:
        with pytest.raises(DamagedError, match=r"000000\.tar is damaged: its SHA-256 is"):
            for each in ShardSet.open(root).stream("000000"):
                seen.append(each.key)
    finally:
        tar.write_bytes(original)
    assert seen == [clip(number).key for number in range(len(seen))]


def test_a_stream_gives_the_same_clips_without_reading_ahead_of_them(
    root: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltactl.ingest.shards.format.BLOCK_BYTES", 512)
    shards = ShardSet.open(root)
    size = len((root / "000000.tar").read_bytes())
    file = Counted((root / "000000.tar").read_bytes())
    monkeypatch.setattr(Location, "open", lambda self: file)
    clips = shards.stream("000000")
    assert next(clips) == clip(0)
    assert 0 < file.tell() < size / 2
    assert list(clips) == [clip(1), clip(2)]
    assert file.closed


def test_a_whole_tar_of_other_clips_than_its_sidecar_names_is_damaged(root: Location) -> None:
    for unit, keys in (("000000", ("drive_000", "drive_001")), ("000001", ("drive_003", "drive_004", "drive_009"))):
        sidecar = ShardSet.open(root).sidecar(unit)
        content = seal(replace(sidecar, keys=keys, sources=keys).to_json())
        (root / f"{unit}.json").write_bytes(canonical_json(content))
        seen = []
        with pytest.raises(DamagedError, match=rf"{unit}\.tar does not hold the {len(keys)} clips"):
            for each in ShardSet.open(root).stream(unit):
                seen.append(each.key)
        assert seen == ["drive_000", "drive_001"] if unit == "000000" else ["drive_003", "drive_004"]


def test_a_disk_that_fails_in_the_middle_is_no_damage(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltactl.ingest.shards.format.BLOCK_BYTES", 512)
    file = Counted((root / "000000.tar").read_bytes(), fails_at=6000)
    monkeypatch.setattr(Location, "open", lambda self: file)
    with pytest.raises(StorageError, match=r"could not read .*000000\.tar: \[Errno 5\]"):
        list(ShardSet.open(root).stream("000000"))


class Counted(io.BufferedReader):
    """A file in memory that fails beyond a place."""

    def __init__(self, data: bytes, fails_at: int | None = None) -> None:
        super().__init__(io.BytesIO(data))
        self._fails_at = fails_at

    def read(self, size: int | None = -1) -> bytes:
        if self._fails_at is not None and self.tell() >= self._fails_at:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


def test_a_lost_tar_or_sidecar_is_an_error(root: Location) -> None:
    shards = ShardSet.open(root)
    (root / "000000.tar").remove()
    for read in (shards.read, shards.stream):
        with pytest.raises(DamagedError, match=r"000000\.tar is missing"):
            list(read("000000"))
    (root / "000001.json").remove()
    with pytest.raises(DamagedError, match=r"000001\.json is missing, though the index names it"):
        list(shards.read("000001"))


def test_a_set_that_is_being_made_shows_what_is_finished(root: Location) -> None:
    (root / "index.json").remove()
    (root / "000001.json").remove()
    shards = ShardSet.open(root)
    assert (shards.units, shards.complete) == (["000000"], False)


def test_other_artifacts_are_refused(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "store"
    open_artifact(place, Identity("features", {}), {})
    with pytest.raises(ArtifactError, match="holds features; shards were expected"):
        ShardSet.open(place)


def test_a_key_with_a_dot_and_twin_keys_are_refused(root: Location) -> None:
    for number, clips in enumerate(([Clip("a.b", clip(0).meta, [])], [clip(0), clip(0)])):
        with pytest.raises(ValueError, match=r"dot|same key"):
            write_shard(root, f"{number + 2:06}", clips, [], {})
    assert "000002.tar" not in root.list()


def test_labels_keep_palette_indices_and_sixteen_bits() -> None:
    indices = np.array([[0, 3], [125, 255]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert Image.open(io.BytesIO(buffer.getvalue())).mode == "P"
    np.testing.assert_array_equal(decode_label(buffer.getvalue()), indices)
    wide = np.array([[0, 256], [40_000, 65_535]], np.uint16)
    np.testing.assert_array_equal(decode_label(png(wide)), wide)


def test_what_is_no_image_is_a_source_error() -> None:
    whole = png(FRAME)
    for data in (b"", b"text", whole[:20], b"\xff\xd8\xff\xe0"):
        with pytest.raises(SourceError, match="not an image"):
            decode_frame(data)
    for data in (b"", b"text", png(DEPTH)[:40]):
        with pytest.raises(SourceError, match="not a PNG label image"):
            decode_label(data)
    with pytest.raises(SourceError, match="mode RGB; one channel"):
        decode_label(whole)


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"times": [NaN]}')
@example(b'{"times": [1e999]}')
def test_hostile_descriptions_are_damage(data: bytes) -> None:
    with pytest.raises(DamagedError, match="the description of a clip is damaged"):
        ClipMeta.from_json(data)


def test_a_name_that_tries_to_leave_stays_a_name(root: Location, tmp_path: Path) -> None:
    """A tar is only ever read into memory, so a hostile member name cannot place a file."""
    tar = root / "000000.tar"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("../../escape.json")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"{}"))
    tar.write_bytes(buffer.getvalue())
    with pytest.raises(DamagedError):
        list(ShardSet.open(root).read("000000"))
    assert not list(tmp_path.rglob("escape*"))
