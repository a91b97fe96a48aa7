"""Shards are plain WebDatasets that know when they are not whole; labels keep their depth."""

from __future__ import annotations

import gc
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deltactl.artifacts import Identity, Quarantined, claim, read_quarantine
from deltactl.errors import ArtifactError, DamagedError, SourceError
from deltactl.ingest.shards import (
    Clip,
    ClipMeta,
    ShardSet,
    decode_frame,
    decode_label,
    finish,
    write_shard,
)
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
    return Clip(f"drive_{number:03}", meta, [png(FRAME), png(FRAME[:, ::-1])], "png", {1: png(DEPTH)}, "depth")


@pytest.fixture
def root(tmp_path: Path) -> Location:
    place = Location.of(tmp_path) / "shards" / "kitti"
    claim(place, Identity("shards", {"seed": 0}), {})
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


def test_a_lost_tar_or_sidecar_is_an_error(root: Location) -> None:
    shards = ShardSet.open(root)
    (root / "000000.tar").remove()
    with pytest.raises(DamagedError, match=r"000000\.tar is missing"):
        list(shards.read("000000"))
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
    claim(place, Identity("features", {}), {})
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
def test_hostile_descriptions_are_source_errors(data: bytes) -> None:
    with pytest.raises(SourceError, match="not the description of a clip"):
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
