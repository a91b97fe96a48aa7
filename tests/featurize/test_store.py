"""A store gives the clips and pairs that are asked for, into the caller's buffer, whole and checked or not at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_shards import make_clip, write_shards
from small_stores import copy, flip, run

from deltactl.artifacts import Identity, open_artifact, write_index
from deltactl.errors import ArtifactError, DamagedError, DeltactlError, StorageError
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.group import GroupHandle, Span
from deltactl.featurize.store.index import GroupEntry, StoreIndex
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.local_reader import LocalReader
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.store.reads import Reading
from deltactl.featurize.store.remote_reader import RemoteReader
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.locations import Location


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two views of two shards: 19 clips, so that a shard is written in more than two pieces."""
    folder = tmp_path_factory.mktemp("store")
    clips = [make_clip(f"clip{number:02d}") for number in range(19)]
    write_shards(folder / "shards", [clips[:17], clips[17:]])
    run(folder / "shards", folder / "store", views="2")
    return folder / "store"


@pytest.fixture
def store(made: Path) -> Iterator[FeatureStore]:
    with FeatureStore.open(str(made)) as opened:
        yield opened


def plain(root: Path, view: int, unit: str) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root}/v{view:03d}/{unit}/features"}}
    data: np.ndarray = tensorstore.open(spec, open=True).result().read().result()
    return data


# --- reading ---


def test_it_says_what_it_holds(store: FeatureStore) -> None:
    assert (len(store), store.frames, store.patches, store.dim, store.grid) == (38, 3, 16, 128, (4, 4))
    assert store.views == (0, 1)
    assert store.keys == tuple(f"clip{number:02d}" for number in range(19)) * 2
    assert store.identity.kind == "features"
    assert store.identity.values["size"] == 64
    assert store.provenance["decoder"] == "auto"
    assert (store.view_of(20), store.unit_of(18), store.find("clip18", 1)) == (1, "000001", 37)


def test_clips_come_in_the_order_asked_for(store: FeatureStore, made: Path) -> None:
    whole = np.concatenate([plain(made, view, unit) for view in (0, 1) for unit in ("000000", "000001")])
    order = np.random.default_rng(0).permutation(38).tolist()
    assert np.array_equal(store.read_clips(order).numpy(), whole[order])
    assert np.array_equal(store.read_clips([3, 3]).numpy(), whole[[3, 3]])
    assert store.read_clips([]).shape == (0, 3, 16, 128)


def test_pairs_are_neighbouring_frames(store: FeatureStore) -> None:
    clips = store.read_clips(range(38))
    pairs = [(sample, frame) for sample in (37, 0, 16) for frame in (1, 0)]
    read = store.read_pairs(pairs)
    assert read.shape == (6, 2, 16, 128)
    for (sample, frame), pair in zip(pairs, read, strict=True):
        assert torch.equal(pair, clips[sample, frame : frame + 2])


def test_reads_go_into_the_callers_buffer_and_several_may_be_under_way(store: FeatureStore) -> None:
    buffers = [store.clip_buffer(6) for _ in range(3)]
    readings = [store.start_clips(range(n * 4, n * 4 + 4), buffers[n]) for n in range(3)]
    for number, reading in enumerate(readings):
        out = reading.result()
        assert reading.done()
        assert out.data_ptr() == buffers[number].data_ptr()
        assert torch.equal(out, store.read_clips(range(number * 4, number * 4 + 4)))


def test_times_crops_and_flips_belong_to_the_samples(store: FeatureStore) -> None:
    assert store.times([0, 37]).tolist() == [[10.0, 10.25, 10.5]] * 2
    crops = store.crops(range(38))
    assert crops.shape == (38, 4)
    assert (crops[:19] != crops[19:]).any()
    assert set(store.flips(range(38)).tolist()) == {True, False}


def test_one_view_can_be_asked_for(made: Path) -> None:
    with FeatureStore.open(str(made), views=[1]) as store:
        assert len(store) == 19
        assert store.view_of(0) == 1
        assert store.views_of("clip03") == (1,)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda store: store.read_clips([38]), "sample 38 of 38"),
        (lambda store: store.read_clips([-1]), "sample -1 of 38"),
        (lambda store: store.read_pairs([(0, 2)]), "begins at 0 … 1"),
        (lambda store: store.read_clips([0, 1], store.clip_buffer(1)), "a row for each item"),
        (lambda store: store.read_clips([0], store.pair_buffer(1)), "the buffer has shape"),
        (lambda store: store.read_clips([0], store.clip_buffer(1).mT), "buffer"),
    ],
)
def test_misuse_is_named(store: FeatureStore, wrong: object, words: str) -> None:
    assert callable(wrong)
    with pytest.raises((ValueError, IndexError), match=words):
        wrong(store)


def test_an_unknown_clip_is_a_key_error(store: FeatureStore) -> None:
    with pytest.raises(KeyError):
        store.read_clip("nothing")
    assert store.views_of("nothing") == ()


def test_both_readers_read_the_same(store: FeatureStore, made: Path) -> None:
    index = StoreIndex.read(Location.of(made))
    group = index.group(Location.of(made), 1, "000000")
    spans = [Span(group, row, first, count) for row, first, count in [(0, 0, 3), (16, 1, 2), (9, 2, 1), (8, 0, 1)]]
    for span in spans:
        results = []
        for reader in (LocalReader(2), RemoteReader(4)):
            out = np.zeros((1, span.count, 16, 128), np.float16)
            for future in reader.start([span], out):
                future.result(timeout=30)
            reader.close()
            results.append(out)
        assert np.array_equal(*results)
        assert np.array_equal(results[0][0], plain(made, 1, "000000")[span.row, span.first : span.first + span.count])


# --- what cannot be opened ---


def test_what_is_no_store_is_named(tmp_path: Path, made: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact of deltactl"):
        FeatureStore.open(str(tmp_path))
    with pytest.raises(ArtifactError, match="holds shards; features were expected"):
        FeatureStore.open(str(made.parent / "shards"))
    with pytest.raises(ArtifactError, match="holds features; tokens were expected"):
        TokenStore.open(str(made))


def test_a_store_that_is_not_finished_says_so(tmp_path: Path, made: Path) -> None:
    store = copy(made, tmp_path / "store")
    (store / "index.json").unlink()
    with pytest.raises(ArtifactError, match="the stage that makes it has not ended"):
        FeatureStore.open(str(store))


# --- damage ---


def read_everything(root: Path) -> None:
    """Use a store as training and evaluation do; the threads end with it."""
    with FeatureStore.open(str(root)) as store:
        samples = range(len(store))
        store.read_clips(samples)
        store.times(samples)
        store.crops(samples)
        store.flips(samples)
        assert store.black.shape == (16, 128)


READ_FILES = [
    "artifact.json",
    "index.json",
    "black/zarr.json",
    "black/c/0/0",
    "v000/000000/zarr.json",
    "v001/000001/features/zarr.json",
    "v001/000000/features/c.0.0.0.0",
    "v000/000001/features/c.0.0.0.0",
    "v000/000000/clips/zarr.json",
    "v000/000000/clips/c.0.0",
]


@given(name=st.sampled_from(READ_FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_a_flipped_bit_in_any_file_is_found_by_reading(made: Path, name: str, where: float, bit: int) -> None:
    path = made / name
    sound = path.read_bytes()
    flip(path, int(where * len(sound)), 1 << bit)
    try:
        with pytest.raises(DeltactlError):
            read_everything(made)
    finally:
        path.write_bytes(sound)
    read_everything(made)


@pytest.mark.parametrize("cut", [0, 1, 3, 100, -1])
@pytest.mark.parametrize("name", ["v000/000000/features/c.0.0.0.0", "v000/000000/clips/c.0.0", "black/c/0/0"])
def test_a_file_that_was_cut_is_found(tmp_path: Path, made: Path, name: str, cut: int) -> None:
    store = copy(made, tmp_path / "store")
    data = (store / name).read_bytes()
    (store / name).write_bytes(data[:cut])
    with pytest.raises(DamagedError, match=name.rpartition("/c")[0].removesuffix("/c/0")):
        read_everything(store)


def test_damage_names_the_file_the_clip_and_the_frame(tmp_path: Path, made: Path) -> None:
    store = copy(made, tmp_path / "store")
    flip(store / "v000/000000/features/c.0.0.0.0", (9 * 3 + 2) * (16 * 128 * 2 + 4) + 77)
    with pytest.raises(DamagedError, match=r"v000/000000/features/c.0.0.0.0: clip 'clip09', frame 2 does not match"):
        read_everything(store)


@pytest.mark.parametrize(
    "name",
    ["v000/000000/features/c.0.0.0.0", "v001/000001", "v001", "v000/000000/clips/c.0.0", "v000/000000/zarr.json"],
)
def test_a_chunk_or_group_that_is_gone_is_an_error_that_names_it(tmp_path: Path, made: Path, name: str) -> None:
    store = copy(made, tmp_path / "store")
    Location.of(store / name).remove()
    with pytest.raises(DamagedError, match=f"{name}.* missing"):
        read_everything(store)


def test_a_chunk_that_is_gone_is_an_error_for_the_remote_reader_too(tmp_path: Path, made: Path) -> None:
    root = copy(made, tmp_path / "store")
    group = StoreIndex.read(Location.of(root)).group(Location.of(root), 0, "000000")
    group.array()
    reader = RemoteReader(4)
    out = np.zeros((1, 3, 16, 128), np.float16)
    flip(root / "v000/000000/features/c.0.0.0.0", 50)
    with pytest.raises(DamagedError, match=r"clip 'clip00'.*verify"):
        reader.start([Span(group, 0, 0, 3)], out)[0].result(timeout=30)
    (root / "v001/000001/features/c.0.0.0.0").unlink()
    other = StoreIndex.read(Location.of(root)).group(Location.of(root), 1, "000001")
    with pytest.raises(DamagedError, match=r"v001/000001: clip 'clip18'.*missing"):
        reader.start([Span(other, 1, 0, 3)], out)[0].result(timeout=30)
    reader.close()


def test_frames_of_real_zeros_are_no_error(tmp_path: Path) -> None:
    root = Location.of(tmp_path / "store")
    identity = Identity("features", {"made": "by hand"})
    open_artifact(root, identity, {})
    layout = Layout("features", 2, (4, 8))
    write_root(root, np.zeros((4, 8), np.float32))
    with group_writer(root, 0, "000000", layout, ["zeros", "ones"], ["one video"] * 2) as writer:
        writer.put(0, 0, np.zeros((2, 4, 8), np.float16))
        writer.put(1, 0, np.ones((2, 4, 8), np.float16))
        small = {"times": np.zeros((2, 2)), "crop": np.zeros((2, 4)), "flip": np.zeros(2)}
        attributes = {
            "identity": {"kind": "features", "values": dict(identity.values)},
            "quarantined": [],
            "shard_sha256": "",
        }
        writer.close(grid=(2, 2), small=small, attributes=attributes)
    finish(root, expected=["000000"])
    with FeatureStore.open(root) as store:
        assert store.read_clips([0, 1]).float().mean(dim=(1, 2, 3)).tolist() == [0.0, 1.0]
        assert store.black.sum() == 0
    reader = RemoteReader(2)
    group = StoreIndex.read(root).group(root, 0, "000000")
    out = np.ones((1, 2, 4, 8), np.float16)
    reader.start([Span(group, 0, 0, 2)], out)[0].result(timeout=30)
    reader.close()
    assert not out.any()


def test_a_failed_read_does_not_spoil_later_ones(tmp_path: Path, made: Path) -> None:
    root = copy(made, tmp_path / "store")
    flip(root / "v000/000000/features/c.0.0.0.0", 9)
    with FeatureStore.open(str(root)) as store:
        with pytest.raises(DamagedError):
            store.read_clips(range(38))
        assert torch.isfinite(store.read_clips([8, 20])).all()


# --- storage that hangs, stores that are large ---


def test_a_storage_that_never_answers_is_an_error_after_a_while(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    # Connections wait in the server's backlog and are never answered.
    server = socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(server.close)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    root = Location.of(made)
    group = StoreIndex.read(root).group(root, 0, "000000")
    # The metadata was there; the data hangs.
    group._array = replace(group.array(), folder=Location.of("s3://bucket/store/v000/000000/features"))
    reader = RemoteReader(2)
    out = torch.zeros((2, 3, 16, 128), dtype=torch.float16)
    started = time.monotonic()
    with pytest.raises(StorageError, match="did not arrive within 1 s"):
        Reading(out, reader.start([Span(group, row, 0, 3) for row in (0, 9)], out.numpy())).result(timeout_seconds=1)
    assert time.monotonic() - started < 10
    reader.close()


def test_a_big_index_is_small_and_opens_quickly(tmp_path: Path) -> None:
    units = {f"{unit:06d}": [f"class_{unit}/video_{unit}_{clip:03d}" for clip in range(256)] for unit in range(210)}
    entry = GroupEntry("0" * 64, 1, ())
    index = StoreIndex(
        layout=Layout("features", 8, (1024, 768)),
        grid=(32, 32),
        keys=units,
        sources=units,
        expected=tuple(units),
        views={0: dict.fromkeys(units, entry)},
        files={},
    )
    root = Location.of(tmp_path)
    open_artifact(root, Identity("features", {}), {})
    write_index(root, index.to_json())
    assert (root / "index.json").size() / index_clips(index) < 100
    started = time.monotonic()
    store = FeatureStore.open(root)
    assert time.monotonic() - started < 2
    assert len(store) == 210 * 256
    assert store.keys[300] == "class_1/video_1_044"


def index_clips(index: StoreIndex) -> int:
    return sum(len(keys) for keys in index.keys.values())


def test_groups_are_described_without_being_read(made: Path) -> None:
    group = GroupHandle(Location.of("/nowhere"), 0, "000000", ["a"], Layout("features", 1, (1, 1)), "0" * 64)
    with pytest.raises(DamagedError, match=r"/nowhere/v000/000000/zarr.json is missing; run: deltactl verify"):
        group.array()
