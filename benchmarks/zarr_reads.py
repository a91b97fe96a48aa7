"""Reading a feature store with zarr-python against `preadv` of the same bytes, beside our local reader's own figures.

Run: python benchmarks/zarr_reads.py STORE [--rounds 5]

STORE is a feature store of this program (`python benchmarks/store.py --keep STORE` makes the one that it measures).
Needs numpy and zarr, and nothing else of this program: so it runs with any version of Python, also with those that a
later zarr-python asks for (3.3 and later, which read the parts of a Zarr shard concurrently, need Python 3.12).

Clips, and pairs of frames, in shuffled order, batch after batch into one buffer, as `benchmarks/store.py` reads them:
by bare `preadv` with 8 threads, and by zarr-python with each of its pipelines (whichever the version has), either all
of a batch at once in its event loop, or by 8 threads of ours. All alternate; the best of the rounds counts. What
`preadv` gives is the measure that both benchmarks share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core import codec_pipeline
from zarr.core.sync import sync

THREADS = 8
BATCH = {"clips": 16, "pairs": 64}
CHECKSUM_BYTES = 4

Item = tuple[int, int, int, int]
"""Group, row, first frame, frames."""


def open_arrays(store: Path) -> list[zarr.Array]:
    """Return the features of each group."""
    return [zarr.open_array(str(path.parent), mode="r") for path in sorted(store.glob("v*/*/features/zarr.json"))]


def items_of(arrays: list[zarr.Array], kind: str) -> list[Item]:
    """Return what is read, shuffled."""
    generator = np.random.default_rng(1)
    clips = [(group, row) for group, array in enumerate(arrays) for row in range(array.shape[0])]
    clips = [clips[number] for number in generator.permutation(len(clips))]
    frames = arrays[0].shape[1]
    if kind == "clips":
        return [(*clip, 0, frames) for clip in clips]
    return [(*clip, int(generator.integers(0, frames - 1)), 2) for clip in clips for _ in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"zarr {zarr.__version__}, {os.cpu_count()} cores")
    pipelines = [name for name in ("BatchedCodecPipeline", "FusedCodecPipeline") if hasattr(codec_pipeline, name)]
    files = [os.open(path, os.O_RDONLY) for path in sorted(options.store.glob("v*/*/features/c*"))]
    pool = ThreadPoolExecutor(THREADS)
    zarr.config.set({"async.concurrency": 64})
    for kind, size in BATCH.items():
        plain = open_arrays(options.store)
        items = items_of(plain, kind)
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        frame_bytes = int(np.prod(plain[0].shape[2:])) * plain[0].dtype.itemsize
        buffer = np.empty((size, items[0][3], *plain[0].shape[2:]), plain[0].dtype)
        whole = plain[0].shape[1]

        work: dict[str, Callable[[], None]] = {"preadv": bare(files, pool, batches, buffer, whole)}
        for name in pipelines:
            with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{name}"}):
                arrays = open_arrays(options.store)
            work[f"{name}, at once"] = at_once(arrays, batches, buffer, name)
            work[f"{name}, threads"] = by_threads(arrays, batches, buffer, name, pool)
        check(work, buffer, batches, plain)
        total = len(items) * items[0][3] * frame_bytes
        for state in ("warm", "cold"):
            seconds: dict[str, list[float]] = {name: [] for name in work}
            for _ in range(options.rounds):
                for name, run in work.items():
                    if state == "cold":
                        for file in files:
                            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                    started = time.perf_counter()
                    run()
                    seconds[name].append(time.perf_counter() - started)
            for name, times in seconds.items():
                ratio = min(seconds["preadv"]) / min(times)
                print(
                    f"{kind:6} {state}  {name:30} {total / min(times) / 1e9:6.2f} GB/s   {ratio:5.2f} of preadv",
                    flush=True,
                )


def bare(
    files: list[int], pool: ThreadPoolExecutor, batches: list[list[Item]], buffer: np.ndarray, whole: int
) -> Callable[[], None]:
    """Return the work of reading the same bytes, and the checksums between the frames, of clips of `whole` frames."""
    rows = buffer.reshape(len(buffer), -1).view(np.uint8)
    stored = rows.shape[1] // buffer.shape[1] + CHECKSUM_BYTES

    def one(job: tuple[int, Item]) -> None:
        number, (group, row, first, _) = job
        os.preadv(files[group], [rows[number]], (row * whole + first) * stored)

    def run() -> None:
        for batch in batches:
            list(pool.map(one, enumerate(batch)))

    return run


def at_once(
    arrays: list[zarr.Array], batches: list[list[Item]], buffer: np.ndarray, pipeline: str
) -> Callable[[], None]:
    """Return the work of reading each batch in one go of zarr's event loop."""

    async def read(batch: list[Item]) -> None:
        found = await asyncio.gather(
            *(
                arrays[group].async_array.getitem((row, slice(first, first + frames)))
                for group, row, first, frames in batch
            )
        )
        for number, value in enumerate(found):
            buffer[number] = value

    def run() -> None:
        with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
            for batch in batches:
                sync(read(batch))

    return run


def by_threads(
    arrays: list[zarr.Array], batches: list[list[Item]], buffer: np.ndarray, pipeline: str, pool: ThreadPoolExecutor
) -> Callable[[], None]:
    """Return the work of reading each batch by threads, a clip or pair each."""

    def one(job: tuple[int, Item]) -> None:
        number, (group, row, first, frames) = job
        buffer[number] = arrays[group][row, first : first + frames]

    def run() -> None:
        with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
            for batch in batches:
                list(pool.map(one, enumerate(batch)))

    return run


def check(
    work: dict[str, Callable[[], None]], buffer: np.ndarray, batches: list[list[Item]], arrays: list[Any]
) -> None:
    """Raise where one of them reads something else than zarr in the simplest way."""
    for name, run in list(work.items())[1:]:  # the first reads the checksums between the frames with them
        buffer[:] = 0
        run()
        for number, (group, row, first, frames) in enumerate(batches[-1]):
            if buffer[number].tobytes() != arrays[group][row, first : first + frames].tobytes():
                raise AssertionError(f"{name} does not read what the store holds")


if __name__ == "__main__":
    main()
