"""Reading a feature store against `preadv` of the same bytes; opening a large one; how many files stores have.

Run: python benchmarks/store.py [--clips 128] [--patches 1024] [--rounds 5] [--alternatives] [--earlier] [--groups 2100]
                                [--packs 4] [--columns] [--dir DIR] [--keep STORE]

A store of random features is made with the program's own writer (128 clips of 8 frames at 512 px: 1.6 GB). Clips, and
pairs of frames, are read in shuffled order, batch after batch into one buffer: by `FeatureStore`, checksums on, and by
bare `preadv` of the same spans of the same files into the same buffer, by as many threads. Cold: the pages of those
files are dropped from the cache before each round (`posix_fadvise`). The two alternate; the best of the rounds counts.

The demand: 8 H200 that train the tokenizer at the published rate (800 pairs/s at 512 px) read 2.5 GB/s; the aim is
twice that, 5 GB/s, on a machine that has the cores for it, and 0.6 of `preadv` on any.

--columns measures what small columns cost: clips, pairs and clips of tokens of a store without them, of one that has
them when they are not asked for, and with them.

--earlier measures a store of the same numbers in the layout of formats 1 to 3 as well, alternating.
--packs makes so many packs of tokens (64 groups of 256 clips, 12 kB a clip), and reads clips in shuffled order from the
groups by themselves, and from the packs; then it counts the files and bytes of all layouts, for Kinetics.
--alternatives measures what was tried and not taken: tensorstore with several settings, checksums off, other pieces.
--keep leaves the store of clips where it says, for `benchmarks/zarr_reads.py`, which reads it with zarr-python.
--groups makes a store of so many groups of 256 clips without chunks, and times its index being made and opened.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch

from deltactl.artifacts import Identity, open_artifact, seal
from deltactl.featurize.plan import PAIRS_PER_SECOND_8_H200
from deltactl.featurize.store import local_reader
from deltactl.featurize.store.carried import COLUMNS
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.group import Span
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import GROUP_FILE, Layout, StoreKind, group_name
from deltactl.featurize.store.local_reader import LocalReader
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.packs import PACK_SHARDS
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.store.reads import LOCAL_THREADS
from deltactl.featurize.store.remote_reader import RemoteReader
from deltactl.featurize.store.writer import GroupWriter, group_metadata, group_writer, write_root
from deltactl.ingest.shards.clip_index import sources_to_json
from deltactl.ingest.shards.columns import Column, Columns
from deltactl.ingest.shards.keys import clip_key, source_name
from deltactl.locations import Location

FRAMES, DIM = 8, 768
COLUMNS_OF_A_ROBOT = (
    *(Column("actions", "float32", (7,)), Column("clip.camera", "float64", (3, 3))),
    *(Column("gripper", "bool", ()), Column("state", "float64", (14,))),
)
"""1,200 bytes a clip."""
FRAME_BYTES = 1024 * DIM * 2
"""Bytes of one frame's features at 512 px."""
BATCH_CLIPS, BATCH_PAIRS = 16, 64
IDENTITY = Identity("features", {"made": "by the benchmark"})
TOKENS = Identity("tokens", IDENTITY.values)
ATTRIBUTES = {
    "identity": {"kind": "features", "values": dict(IDENTITY.values)},
    "quarantined": [],
    "shard_sha256": "",
}


def make_store(root: Location, clips: int, patches: int, *, nested: bool = False, carried: Columns = ()) -> float:
    """Write a store of random features in groups of 64 clips; return the rate of writing in bytes a second."""
    open_artifact(root, IDENTITY, {})
    layout = Layout("features", FRAMES, (patches, DIM), nested=nested, carried=carried)
    write_root(root, np.zeros((patches, DIM), np.float32))
    generator = np.random.default_rng(0)
    frames = [generator.standard_normal((FRAMES, patches, DIM), np.float32).astype(np.float16) for _ in range(4)]
    units = [f"{number:06d}" for number in range(-(-clips // 64))]
    started = time.perf_counter()
    for number, unit in enumerate(units):
        keys = [f"clip_{number}_{row}" for row in range(min(64, clips - 64 * number))]
        with group_writer(root, 0, unit, layout, keys, keys) as writer:
            for row in range(len(keys)):
                writer.put(row, 0, frames[row % 4])
            writer.close(grid=(1, patches), small=small_arrays(len(keys), layout), attributes=ATTRIBUTES)
    seconds = time.perf_counter() - started
    finish(root, expected=units)
    return clips * layout.clip_bytes / seconds


def small_arrays(clips: int, layout: Layout) -> dict[str, np.ndarray]:
    """Return the small arrays of a group, and its columns."""
    rows = np.random.default_rng(0).integers(0, 256, (clips, layout.carried_bytes), np.uint8)
    return {"times": np.zeros((clips, FRAMES)), "crop": np.zeros((clips, 4)), "flip": np.zeros(clips), COLUMNS: rows}


class Bare:
    """`preadv` of the spans of a store, with threads, descriptors and offsets ready."""

    def __init__(self, store: FeatureStore, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._store = store
        self._files: dict[str, int] = {}
        self._frame_bytes = store.layout.frame_bytes

    def read(self, spans: Sequence[Span], out: torch.Tensor) -> None:
        """Read the features of the spans, and nothing else of the files, into the rows of `out`."""
        rows = out.numpy().reshape(len(spans), -1).view(np.uint8)
        jobs = []
        for span in spans:
            array = span.group.array()
            path = str(array.file(span.row))
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            place = array.place(span.row) * FRAMES + span.first
            jobs.append((self._files[path], place * (self._frame_bytes + 4)))
        list(
            self._pool.map(lambda number: os.preadv(jobs[number][0], [rows[number]], jobs[number][1]), range(len(jobs)))
        )

    def drop_cache(self) -> None:
        """Forget the pages of the files that were read."""
        for file in self._files.values():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def best(work: dict[str, Callable[[], None]], rounds: int, before: Callable[[], None]) -> dict[str, float]:
    """Return the least seconds of each, over rounds in which they alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            before()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in seconds.items()}


def compare(store: FeatureStore, kind: str, rounds: int, alternatives: bool, earlier: FeatureStore | None) -> None:
    """Print rates of clips or pairs, warm and cold; also of the same store in the `earlier` layout."""
    generator = np.random.default_rng(1)
    clips = [int(sample) for sample in generator.permutation(len(store))]
    pairs = [(sample, int(generator.integers(0, FRAMES - 1))) for sample in clips for _ in range(2)]
    items: list[Any] = clips if kind == "clips" else pairs
    size = BATCH_CLIPS if kind == "clips" else BATCH_PAIRS
    count = FRAMES if kind == "clips" else 2
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    buffer = store.clip_buffer(size) if kind == "clips" else store.pair_buffer(size)
    spans = [[span_of(store, item) for item in batch] for batch in batches]
    read = store.read_clips if kind == "clips" else store.read_pairs
    bare = Bare(store, LOCAL_THREADS)

    def bare_preadv() -> None:
        for batch in spans:
            bare.read(batch, buffer[: len(batch)])

    def ours() -> None:
        for batch in batches:
            read(batch, buffer)

    def with_reader(reader: Any) -> Callable[[], None]:
        def run() -> None:
            for batch in spans:
                for future in reader.start(batch, buffer[: len(batch)].numpy()):
                    future.result()

        return run

    work: dict[str, Callable[[], None]] = {"preadv": bare_preadv, "FeatureStore": ours}
    old_bare = Bare(earlier, LOCAL_THREADS) if earlier is not None else None
    if earlier is not None and old_bare is not None:
        old_read = earlier.read_clips if kind == "clips" else earlier.read_pairs
        work["  formats 1 to 3"] = lambda: [old_read(batch, buffer) for batch in batches] and None
        for batch in batches:
            old_bare.read([span_of(earlier, item) for item in batch], buffer[: len(batch)])
    if alternatives:
        for threads in (1, 2, 8, 16):
            work[f"  {threads} threads"] = with_reader(LocalReader(threads))
        work["  256 kB pieces"] = with_other(ours, read_in_pieces)
        work["  no checksums"] = with_other(ours, read_unchecked)
        work["  tensorstore"] = with_reader(RemoteReader(64))
    bare_preadv()
    total = len(items) * count * store.layout.frame_bytes

    def forget() -> None:
        for each in (bare, old_bare):
            if each is not None:
                each.drop_cache()

    for state, before in (("warm", lambda: None), ("cold", forget)):
        seconds = best(work, rounds, before)
        for name, least in seconds.items():
            ratio = seconds["preadv"] / least
            print(f"{kind:6} {state}  {name:18} {total / least / 1e9:6.2f} GB/s   {ratio:5.2f} of preadv", flush=True)


def compare_columns(bare: ClipStore, carrying: ClipStore, rounds: int) -> None:
    """Print what the columns of a store cost whoever reads clips, or pairs, of it, beside a store without."""
    generator = np.random.default_rng(1)
    clips = np.tile(
        generator.permutation(len(bare)), max(1, 8192 // len(bare)) if bare.kind == "tokens" else 1
    ).tolist()
    pairs = [(sample, int(generator.integers(0, FRAMES - 1))) for sample in clips for _ in range(2)]
    kinds: dict[str, tuple[list[Any], int]] = {"clips": (clips, 256 if bare.kind == "tokens" else BATCH_CLIPS)}
    if bare.kind == "features":
        kinds["pairs"] = (pairs, BATCH_PAIRS)
    for kind, (items, size) in kinds.items():
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        buffer = bare.clip_buffer(size) if kind == "clips" else bare.pair_buffer(size)

        def reads(
            store: ClipStore,
            *,
            columns: bool,
            kind: str = kind,
            batches: list[list[Any]] = batches,
            buffer: torch.Tensor = buffer,
        ) -> Callable[[], None]:
            start = store.start_clips if kind == "clips" else store.start_pairs

            def read() -> None:
                for batch in batches:
                    reading = start(batch, buffer[: len(batch)])
                    samples = batch if kind == "clips" else [sample for sample, _ in batch]
                    carried = store.start_columns(samples) if columns else dict
                    reading.result()
                    carried()

            return read

        work = {
            "none": reads(bare, columns=False),
            "none, asked for": reads(bare, columns=True),
            "carried, unread": reads(carrying, columns=False),
            "carried, read": reads(carrying, columns=True),
        }
        for run in work.values():
            run()
        seconds = best(work, rounds, lambda: None)
        for name, least in seconds.items():
            rate = len(items) / least
            print(
                f"{bare.kind:8} {kind}  columns {name:16} {rate:10,.0f} {kind}/s   "
                f"{100 * (least / seconds['none'] - 1):+5.1f} %",
                flush=True,
            )


def measure_columns(folder: Path, clips: int, patches: int, rounds: int) -> None:
    """Compare stores of features, and of tokens, with and without columns."""
    stores: list[ClipStore] = []
    for name, carried in (("bare", ()), ("carrying", COLUMNS_OF_A_ROBOT)):
        root = Location.of(folder / f"features-{name}")
        make_store(root, clips, patches, carried=carried)
        stores.append(FeatureStore.open(root))
    compare_columns(*stores, rounds)
    tokens = np.random.default_rng(0).standard_normal((256, FRAMES, 1, DIM), np.float32).astype(np.float16)
    stores = []
    for name, carried in (("bare", ()), ("carrying", COLUMNS_OF_A_ROBOT)):
        root = Location.of(folder / f"tokens-{name}")
        open_artifact(root, TOKENS, {})
        write_root(root, None)
        units = [f"{number:06d}" for number in range(8)]
        for unit in units:
            write_group(root, unit, Layout("tokens", FRAMES, (1, DIM), carried=carried), tokens)
        index = finish(root, expected=units)
        assert index is not None
        pack_store(root, index)
        stores.append(TokenStore.open(root))
    compare_columns(*stores, rounds)


def read_tokens(folder: Path, packs: int, rounds: int) -> None:
    """Print rates of reading clips of tokens from groups by themselves, and from packs of the same groups."""
    places = {"groups": Location.of(folder / "groups"), "packs": Location.of(folder / "packs")}
    layout = Layout("tokens", FRAMES, (1, DIM))
    units = [f"{number:06d}" for number in range(packs * PACK_SHARDS)]
    tokens = np.random.default_rng(0).standard_normal((256, FRAMES, 1, DIM), np.float32).astype(np.float16)
    for name, root in places.items():
        open_artifact(root, TOKENS, {})
        write_root(root, None)
        started = time.perf_counter()
        for unit in units:
            write_group(root, unit, layout, tokens)
        finish(root, expected=units)
        wrote, started = time.perf_counter() - started, time.perf_counter()
        if name == "packs":
            pack_store(root, StoreIndex.read(root))
            print(
                f"tokens: wrote {len(units):,} groups of {tokens.nbytes / 1e6:.1f} MB in {wrote:.1f} s, packed them in "
                f"{time.perf_counter() - started:.1f} s"
            )
    stores = {name: TokenStore.open(root) for name, root in places.items()}
    samples = np.random.default_rng(1).permutation(len(units) * 256)[:65536].tolist()
    batches = [samples[start : start + 256] for start in range(0, len(samples), 256)]
    buffer = stores["packs"].clip_buffer(256)

    def reads(store: ClipStore) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                store.read_clips(batch, buffer[: len(batch)])
                store.times(batch)

        return run

    seconds = best({name: reads(store) for name, store in stores.items()}, rounds, lambda: None)
    for name, least in seconds.items():
        print(f"tokens warm  {name:8} {len(samples) / least:9,.0f} clips/s", flush=True)


def count_files(folder: Path) -> None:
    """Print inodes, and bytes beside the data, of a group or pack in each layout, and for Kinetics."""
    groups = 536_000 * 8 // 256 * 4
    print(f"Kinetics, 8 clips, 4 views: {groups:,} groups")
    kinds: tuple[StoreKind, ...] = ("features", "tokens")
    for kind in kinds:
        for nested in (True, False):
            layout = Layout(kind, FRAMES, (1, DIM), nested=nested)  # of one patch, which what lies beside hardly shows
            root = Location.of(folder / f"count-{kind}-{nested}")
            open_artifact(root, IDENTITY if kind == "features" else TOKENS, {})
            units = [f"{number:06d}" for number in range(PACK_SHARDS if kind == "tokens" else 1)]
            for unit in units:
                write_group(root, unit, layout, np.ones((256, FRAMES, 1, DIM), np.float16))
            index = finish(root, expected=units)
            assert index is not None
            pack_store(root, index)
            inside = [path for path in (root.path / "v000").rglob("*") if path != root.path / "v000" / GROUP_FILE]
            beside = (
                sum(path.stat().st_size for path in inside if path.is_file()) - len(units) * 256 * layout.clip_bytes
            )
            count, size = len(inside) / len(units), beside / len(units)
            print(
                f"{kind:8} format {layout.format}: {count:7.3f} inodes and {size:7,.0f} bytes beside the data a group; "
                f"in all {groups * count:12,.0f} inodes, {groups * size / 1e9:.2f} GB"
            )


def write_group(root: Location, unit: str, layout: Layout, clips: np.ndarray) -> None:
    """Publish a group of clips, with keys as long as those of Kinetics."""
    videos = [
        f"train/class_of_some_words_{int(unit) % 700}/abcdefghijk_{row // 8:06d}_{unit}.mp4" for row in range(256)
    ]
    keys, sources = [clip_key(video, row % 8, 8) for row, video in enumerate(videos)], list(map(source_name, videos))
    with group_writer(root, 0, unit, layout, keys, sources) as writer:
        for row, clip in enumerate(clips):
            writer.put(row, 0, clip)
        attributes = {**ATTRIBUTES, "identity": {"kind": layout.kind, "values": dict(IDENTITY.values)}}
        writer.close(grid=(1, 1), small=small_arrays(len(clips), layout), attributes=attributes)


def span_of(store: FeatureStore, item: Any) -> Span:
    """Return the span of a sample, or of a pair."""
    sample, first, count = (item, 0, FRAMES) if isinstance(item, int) else (*item, 2)
    _, _, rows = store.origins
    return Span(store._group(sample), int(rows[sample]), first, count)


def read_in_pieces(descriptor: int, out: np.ndarray, offset: int) -> bool:
    """Read a chunk piece by piece, each in the second-level cache when its checksum is taken."""
    checksum = 0
    for start in range(0, len(out), 1 << 18):
        piece = out[start : start + (1 << 18)]
        os.preadv(descriptor, [piece], offset + start)
        checksum = google_crc32c.extend(checksum, piece)
    return checksum == int.from_bytes(os.pread(descriptor, 4, offset + len(out)), "little")


def read_unchecked(descriptor: int, out: np.ndarray, offset: int) -> bool:
    """Read a chunk without looking at its checksum: what that costs."""
    return os.preadv(descriptor, [out], offset) == len(out)


def with_other(run: Callable[[], None], read_chunk: Callable[[int, np.ndarray, int], bool]) -> Callable[[], None]:
    """Return the work done with another way to read a chunk."""

    def changed() -> None:
        real = local_reader._read_checked
        local_reader._read_checked = read_chunk
        try:
            run()
        finally:
            local_reader._read_checked = real

    return changed


def open_many(folder: Path, groups: int) -> None:
    """Make a store of so many groups of 256 clips without chunks; time its index and its opening."""
    root = Location.of(folder / "large")
    open_artifact(root, IDENTITY, {})
    layout = Layout("features", FRAMES, (1024, DIM))
    write_root(root, np.zeros((1024, DIM), np.float32))
    # One group by the writer, its metadata copied: the arrays of all groups are alike.
    model = folder / "model"
    writer = GroupWriter(model, layout, [], [])
    names = [f"{array}/{GROUP_FILE}" for array in layout.arrays(256)]
    writer.close(grid=(32, 32), small=small_arrays(0, layout), attributes=ATTRIBUTES)
    files = {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in names}
    units = [f"{number:06d}" for number in range(groups)]
    for unit in units:
        group = root.path / group_name(0, unit)
        for name in names:
            (group / name).parent.mkdir(parents=True)
            shutil.copyfile(model / name, group / name)
        videos = [f"train/class_{int(unit) % 700}/video_{unit}_{row:03d}.mp4" for row in range(256)]
        attributes = {
            **ATTRIBUTES,
            "format": layout.format,
            "layout": layout.to_json(),
            "grid": [32, 32],
            "keys": [clip_key(video, 0, 1) for video in videos],
            "sources": sources_to_json([source_name(video) for video in videos]),
            "invalid": [],
            "bytes": 0,
            "files": files,
        }
        (group / GROUP_FILE).write_bytes(group_metadata(seal(attributes)))
    started = time.perf_counter()
    finish(root, expected=units)
    made = time.perf_counter() - started
    size = (root / "index.json").size()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        store = FeatureStore.open(root)
        times.append(time.perf_counter() - started)
    print(
        f"{groups:,} groups, {len(store):,} clips: index made in {made:.2f} s, {size / 1e6:.1f} MB "
        f"({size / len(store):.0f} bytes a clip), opened in {min(times):.2f} s (aim: under 2 s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--patches", type=int, default=1024, help="1024 at 512 px, 256 at 256 px")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alternatives", action="store_true")
    parser.add_argument("--earlier", action="store_true")
    parser.add_argument("--groups", type=int, default=2100)
    parser.add_argument("--packs", type=int, default=4)
    parser.add_argument("--columns", action="store_true")
    parser.add_argument("--dir", help="where to put the stores; a folder of its own is made there")
    parser.add_argument("--keep", type=Path, help="where to make the store of clips, and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        if options.clips:
            made = Location.of(options.keep or folder / "store")
            rate = make_store(made, options.clips, options.patches)
            size = options.clips * FRAMES * options.patches * DIM * 2
            print(
                f"{os.cpu_count()} cores, {LOCAL_THREADS} threads; wrote {size / 1e9:.2f} GB at {rate / 1e9:.2f} GB/s"
            )
            demand = 2 * PAIRS_PER_SECOND_8_H200[1024] * 2 * FRAME_BYTES
            print(f"twice what 8 H200 read to train the tokenizer at 512 px, as published: {demand / 1e9:.1f} GB/s")
            earlier = None
            if options.earlier:
                rate = make_store(Location.of(folder / "earlier"), options.clips, options.patches, nested=True)
                print(f"in the layout of formats 1 to 3: wrote as much at {rate / 1e9:.2f} GB/s")
                earlier = FeatureStore.open(Location.of(folder / "earlier"))
            with FeatureStore.open(made) as store:
                compare(store, "clips", options.rounds, options.alternatives, earlier)
                compare(store, "pairs", options.rounds, options.alternatives, earlier)
        if options.columns:
            measure_columns(folder, options.clips or 128, options.patches, options.rounds)
        if options.packs:
            read_tokens(folder, options.packs, options.rounds)
            count_files(folder)
        if options.groups:
            open_many(folder, options.groups)


if __name__ == "__main__":
    main()
