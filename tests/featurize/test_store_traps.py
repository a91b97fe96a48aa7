"""What zarr and tensorstore really do, and that the store does not fall into it."""

from __future__ import annotations

import json
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
from deltactl.featurize.store.finish import finish, published
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.writer import GroupWriter, create_array, group_writer
from deltactl.locations import Location
from deltactl.staging import publish_folder

CHUNK = "v000/000000/features/c/0/0/0/0"


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
def test_damage_is_a_value_error_in_both_libraries_and_ours_names_the_file(
    made: Path, tmp_path: Path, damage: str
) -> None:
    store = copy(made, tmp_path / "store")
    data = (store / CHUNK).read_bytes()
    if damage == "flipped":
        flip(store / CHUNK, 40)
    else:
        (store / CHUNK).write_bytes(data[: {"cut": len(data) // 2, "empty": 0}[damage]])
    for read in (with_tensorstore, with_zarr):
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


def test_a_chunk_that_equals_the_fill_value_is_stored(tmp_path: Path) -> None:
    specification = Layout("features", 2, (4, 8)).arrays(3)["features"]
    array = create_array(tmp_path / "array", specification)
    array[0:3].write(np.full((3, 2, 4, 8), np.nan, np.float16)).result()
    assert (tmp_path / "array/c/0/0/0/0").stat().st_size > 3 * 2 * 4 * 8 * 2
    # Without the option the file is not there at all.
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/plain"}}
    plain = tensorstore.open({**spec, "metadata": specification.metadata()}, create=True).result()
    plain[0:3].write(np.full((3, 2, 4, 8), np.nan, np.float16)).result()
    assert not (tmp_path / "plain/c").exists()


def test_a_zarr_shard_is_written_once(tmp_path: Path) -> None:
    layout = Layout("features", 2, (4, 8))
    keys = [f"clip{number}" for number in range(20)]
    writer = GroupWriter(tmp_path / "group", layout, keys, keys)
    shard = tmp_path / "group/features/c/0/0/0/0"
    stamps = set()
    for row in range(20):
        writer.put(row, 0, np.ones((2, 4, 8), np.float16))
        if shard.exists():
            stamps.add((shard.stat().st_ino, shard.stat().st_mtime_ns))
    writer.close(
        grid=(2, 2),
        small={"times": np.zeros((20, 2)), "crop": np.zeros((20, 4)), "flip": np.zeros(20)},
        attributes={},
    )
    stamps.add((shard.stat().st_ino, shard.stat().st_mtime_ns))
    assert len(stamps) == 1
    written = sum(path.stat().st_size for path in (tmp_path / "group/features/c").rglob("*") if path.is_file())
    assert written < 1.2 * 20 * layout.clip_bytes + 3 * 8 * 2 * 20

    # Clip by clip, tensorstore writes the whole shard anew each time.
    array = create_array(tmp_path / "naive", layout.arrays(8)["features"])
    naive = tmp_path / "naive/c/0/0/0/0"
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
