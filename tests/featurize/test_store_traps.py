"""What zarr and tensorstore really do, and that the store does not fall into it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from small_shards import training_shards
from small_stores import copy, flip, run

from deltactl.artifacts import Identity, open_artifact
from deltactl.errors import DamagedError
from deltactl.featurize.store.array_files import ShardFiles, write_array
from deltactl.featurize.store.finish import finish, published
from deltactl.featurize.store.group import read_rows
from deltactl.featurize.store.layout import ArraySpec, Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.writer import GroupWriter, group_writer
from deltactl.locations import Location
from deltactl.staging import publish_folder

CHUNK = "v000/000000/features/c.0.0.0.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    training_shards(folder / "shards", units=1)
    run(folder / "shards", folder / "store", views="2")
    return folder / "store"


def with_tensorstore(root: Path, **options: Any) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root}/v000/000000/features"}, **options}
    data: np.ndarray = tensorstore.open(spec, open=True).result().read().result()
    return data


def with_zarr(root: Path) -> np.ndarray:
    data: np.ndarray = zarr.open_group(str(root), mode="r")["v000/000000/features"][:]
    return data


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damage_is_an_error_or_nan_in_both_libraries_and_ours_names_the_file(
    made: Path, tmp_path: Path, damage: str
) -> None:
    store = copy(made, tmp_path / "store")
    data = (store / CHUNK).read_bytes()
    if damage == "flipped":
        flip(store / CHUNK, 40)
    else:
        (store / CHUNK).write_bytes(data[: {"cut": len(data) // 2, "empty": 0}[damage]])
    for read in (with_tensorstore, with_zarr):
        if (damage, read) == ("empty", with_zarr):
            assert np.isnan(read(store)).all()  # zarr-python takes an empty Zarr shard for one that is not there
            continue
        with pytest.raises((ValueError, RuntimeError)):
            read(store)
    with FeatureStore.open(str(store)) as opened, pytest.raises(DamagedError, match=CHUNK):
        opened.read_clips([0])


def test_a_deleted_chunk_is_silent_in_both_libraries_but_never_zeros(made: Path, tmp_path: Path) -> None:
    store = copy(made, tmp_path / "store")
    (store / CHUNK).unlink()
    # The fill value: neither library says a word. It is NaN, so that nothing can be computed from it unnoticed.
    for read in (with_tensorstore, with_zarr):
        assert np.isnan(read(store)).all()
    with pytest.raises(ValueError, match="NOT_FOUND"):
        with_tensorstore(store, fill_missing_data_reads=False)
    with FeatureStore.open(str(store)) as opened, pytest.raises(DamagedError, match=f"{CHUNK} is missing"):
        opened.read_clips([0])


def by_tensorstore(folder: Path, spec: ArraySpec, **options: Any) -> Any:
    """Return an array that tensorstore made, to write to."""
    place = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": spec.metadata()}
    return tensorstore.open({**place, **options}, create=True, open=True).result()


def test_a_chunk_that_equals_the_fill_value_is_stored(tmp_path: Path) -> None:
    specification = Layout("features", 2, (4, 8)).arrays(3)["features"]
    nans = np.full((3, 2, 4, 8), np.nan, np.float16)
    files = ShardFiles(tmp_path / "array", specification, 1)
    files.write(0, nans).result()
    files.close()
    assert (tmp_path / "array/c.0.0.0.0").stat().st_size > 3 * 2 * 4 * 8 * 2
    # tensorstore leaves it out.
    by_tensorstore(tmp_path / "plain", specification)[0:3].write(nans).result()
    assert not (tmp_path / "plain/c.0.0.0.0").exists()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("kind", "clips"), [("features", 19), ("features", 8), ("tokens", 5)])
def test_the_bytes_are_those_that_a_library_writes(kind: Any, clips: int, nested: bool, tmp_path: Path) -> None:
    layout = Layout(kind, 3, (4, 8), nested=nested)
    spec, piece = layout.arrays(clips)[kind], layout.piece_clips(clips)
    values = np.random.default_rng(0).random((clips, 3, 4, 8)).astype(np.float16)
    values[1] = np.nan
    array = by_tensorstore(tmp_path / "theirs", spec, store_data_equal_to_fill_value=True)
    array.write(values).result()
    files = ShardFiles(tmp_path / "ours", spec, 3)
    # In any order: where a piece lies follows from its number.
    for future in [files.write(first, values[first : first + piece]) for first in reversed(range(0, clips, piece))]:
        future.result()
    files.close()
    theirs, ours = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("theirs", "ours")
    )
    assert ours == theirs
    assert len(ours) == 1 + (-(-clips // 8) if nested and kind == "features" else 1)


def test_a_table_is_read_by_libraries_and_by_rows(tmp_path: Path) -> None:
    for clips in (1, 32, 75):
        spec = Layout("tokens", 3, (1, 8)).arrays(clips)["clips"]
        values = np.random.default_rng(0).random(spec.shape)
        write_array(tmp_path / str(clips), spec, values, {"more": 1})
        array = zarr.open_array(tmp_path / str(clips), mode="r")
        assert np.array_equal(array[:], values)
        assert array.attrs["columns"] == ["time_0", "time_1", "time_2", *spec.columns[3:]]
        assert array.attrs["more"] == 1
        for first, count in {(0, clips), (clips // 2, clips - clips // 2), (clips - 1, 1), (0, 0)}:
            rows = read_rows(Location.of(tmp_path / str(clips)), spec, first, count, "mend it")
            assert np.array_equal(rows, values[first : first + count])


def test_a_byte_of_a_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    real = os.pwritev

    def watched(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        # A system may take fewer bytes than it is given.
        count = real(descriptor, [buffers[0][: max(1, len(buffers[0]) // 2)]], offset)
        written.append((offset, count))
        return count

    monkeypatch.setattr(os, "pwritev", watched)
    layout = Layout("features", 2, (4, 8))
    keys = [f"clip{number}" for number in range(20)]
    writer = GroupWriter(tmp_path / "group", layout, keys, keys)
    for row in range(20):
        writer.put(row, 0, np.full((2, 4, 8), row, np.float16))
    writer.close(
        grid=(2, 2),
        small={"times": np.zeros((20, 2)), "crop": np.zeros((20, 4)), "flip": np.zeros(20)},
        attributes={},
    )
    end = 0
    for offset, count in sorted(written):
        assert offset == end
        end += count
    assert end == (tmp_path / "group/features/c.0.0.0.0").stat().st_size
    assert end < 1.2 * 20 * layout.clip_bytes + 20 * 2 * 20
    array = zarr.open_array(tmp_path / "group/features", mode="r")
    assert np.array_equal(array[:, 0, 0, 0], np.arange(20))

    # Clip by clip, tensorstore writes the whole shard anew each time.
    array = by_tensorstore(tmp_path / "naive", layout.arrays(8)["features"])
    naive = tmp_path / "naive/c.0.0.0.0"
    seen = set()
    for row in range(8):
        array[row].write(np.ones((2, 4, 8), np.float16)).result()
        seen.add((naive.stat().st_ino, naive.stat().st_mtime_ns, naive.stat().st_size))
    assert len(seen) == 8


def test_memory_holds_a_few_zarr_shards_however_long_the_group(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    layout = Layout("features", 4, (256, 256))  # 0.5 MB a clip, 4 MB a Zarr shard
    frames = np.ones((4, 256, 256), np.float16)
    process = psutil.Process()

    def fill(folder: Path, clips: int) -> int:
        keys = [str(number) for number in range(clips)]
        writer = GroupWriter(folder, layout, keys, keys)
        most = 0
        for row in range(clips):
            writer.put(row, 0, frames)
            most = max(most, process.memory_info().rss)
        writer.abandon()
        return most

    fill(tmp_path / "warm", 64)
    assert fill(tmp_path / "long", 256) - fill(tmp_path / "short", 64) < 40e6


def test_a_group_in_the_making_is_no_group(tmp_path: Path) -> None:
    root = Location.of(tmp_path / "store")
    open_artifact(root, Identity("features", {}), {})
    (tmp_path / "store/zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with group_writer(root, 0, "000000", Layout("features", 1, (2, 2)), ["a"], ["a"]) as writer:
        writer.put(0, 0, np.ones((1, 2, 2), np.float16))
        # zarr warns of the JSON files beside the groups when it lists the root, and goes on.
        with pytest.warns(UserWarning, match=r"artifact.json is not recognized"):
            assert list(zarr.open_group(str(root), mode="r").group_keys()) == []
        assert published(root) == {}
        small = {"times": np.zeros((1, 1)), "crop": np.zeros((1, 4)), "flip": np.zeros(1)}
        writer.close(grid=(1, 2), small=small, attributes={})
    assert published(root) == {0: ["000000"]}


def test_renaming_onto_a_full_folder_fails_and_onto_an_empty_one_replaces_so_publishing_looks(tmp_path: Path) -> None:
    for name in ("a", "full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/x").write_text("a")
    (tmp_path / "full/y").write_text("b")
    with pytest.raises(OSError, match="not empty"):
        (tmp_path / "a").rename(tmp_path / "full")
    (tmp_path / "a").rename(tmp_path / "empty")
    assert (tmp_path / "empty/x").exists()

    root = Location.of(tmp_path / "store")
    with publish_folder(root, "v000/000000") as first:
        (first / "zarr.json").write_text("first")
        with publish_folder(root, "v000/000000") as second:
            (second / "zarr.json").write_text("second")
    assert (root / "v000/000000/zarr.json").read_bytes() == b"second"


def test_a_deleted_group_just_disappears_so_the_index_knows_it(made: Path, tmp_path: Path) -> None:
    store = copy(made, tmp_path / "store")
    shutil.rmtree(store / "v001/000000")
    assert list(zarr.open_group(str(store / "v001"), mode="r").group_keys()) == []
    with (
        FeatureStore.open(str(store)) as opened,
        pytest.raises(DamagedError, match=r"v001/000000/zarr.json is missing"),
    ):
        opened.read_clips(range(len(opened)))


def test_a_rebuilt_index_says_what_is_there(made: Path, tmp_path: Path) -> None:
    store = copy(made, tmp_path / "store")
    before = (store / "index.json").read_bytes()
    (store / "index.json").unlink()
    finish(Location.of(store), expected=["000000"])
    assert (store / "index.json").read_bytes() == before


def test_a_store_is_read_by_many_threads_at_once(made: Path) -> None:
    before = threading.enumerate()
    with FeatureStore.open(str(made)) as store, ThreadPoolExecutor(8) as pool:
        whole = store.read_clips(range(6))
        for sample, clip in pool.map(lambda number: (number % 6, store.read_clips([number % 6])[0]), range(200)):
            assert np.array_equal(clip.numpy(), whole[sample].numpy())
    assert not [each for each in threading.enumerate() if each.name.startswith("store") and each not in before]
