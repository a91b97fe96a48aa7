"""Writes the files of Zarr arrays: their metadata, arrays of one chunk, and Zarr shards piece by piece.

Where each chunk of a Zarr shard lies follows from its number, since none is compressed and all are there: chunks in C
order, each with its CRC-32C, then the index of offsets and lengths, and the index's CRC-32C. So pieces of a file can be
written in any order, by several threads, and none is held in memory for the others; a library that writes a Zarr shard
in one transaction holds all of it, which may be gigabytes. The bytes are those that tensorstore writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8, UInt64

from deltactl.errors import StorageError
from deltactl.featurize.store.layout import GROUP_FILE, ArraySpec
from deltactl.locations import storage_errors

CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1
"""Offset and length of a chunk that a Zarr shard does not hold: beyond the end of the array."""


def array_metadata(spec: ArraySpec, attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the `zarr.json` of an array; `attributes` are those beyond what the specification has."""
    metadata = spec.metadata()
    if attributes:
        metadata["attributes"] = {**metadata.get("attributes", {}), **attributes}
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def checksum(data: UInt8[np.ndarray, " bytes"] | bytes) -> bytes:
    """Return the CRC-32C of bytes as it is stored behind them."""
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM_BYTES, "little")


def write_array(
    folder: Path, spec: ArraySpec, values: Shaped[np.ndarray, "*shape"], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write a small array of one chunk, or one Zarr shard of whole rows; of no rows, its metadata alone."""
    with storage_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / GROUP_FILE).write_bytes(array_metadata(spec, attributes))
        if spec.shape[0]:
            data = np.ascontiguousarray(values, np.dtype(spec.dtype).newbyteorder("<"))
            file = folder / spec.file(0)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_one_chunk(data) if spec.inner is None else _rows(spec, data))


def _one_chunk(data: Shaped[np.ndarray, "*shape"]) -> bytes:
    return data.tobytes() + checksum(data.tobytes())


def _rows(spec: ArraySpec, data: Shaped[np.ndarray, "row *rest"]) -> bytes:
    """Return a Zarr shard of whole rows; those beyond the last, which a chunk has all the same, are NaN."""
    assert spec.inner is not None, "an array of Zarr shards"
    padded = data
    if len(data) < spec.chunk[0]:
        padded = np.full(spec.chunk, np.nan, data.dtype)
        padded[: len(data)] = data
    chunks = padded.reshape(-1, spec.inner[0], *spec.chunk[1:])
    return b"".join(_one_chunk(chunk) for chunk in chunks) + index_bytes(spec, len(padded))


def chunk_bytes(spec: ArraySpec) -> int:
    """Return the bytes of an inner chunk, without its checksum."""
    assert spec.inner is not None, "an array of Zarr shards"
    return math.prod(spec.inner) * np.dtype(spec.dtype).itemsize


def chunks_of_clip(spec: ArraySpec) -> int:
    """Return how many inner chunks lie side by side: of frames, those of a clip."""
    assert spec.inner is not None, "an array of Zarr shards"
    return math.prod(-(-whole // part) for whole, part in zip(spec.chunk[1:], spec.inner[1:], strict=True))


def regular_index(spec: ArraySpec, clips: int) -> UInt64[np.ndarray, "chunk 2"]:
    """Return the index of a Zarr shard that holds so many clips: offset and length of each chunk, checksums counted."""
    assert spec.inner is not None, "an array of Zarr shards"
    stored, chunks = chunk_bytes(spec) + CHECKSUM_BYTES, chunks_of_clip(spec)
    present = clips // spec.inner[0] * chunks
    index = np.full((spec.chunk[0] // spec.inner[0] * chunks, 2), ABSENT, "<u8")
    index[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(stored)
    index[:present, 1] = stored
    return index


def index_bytes(spec: ArraySpec, clips: int) -> bytes:
    """Return the end of such a Zarr shard: its index and the index's checksum."""
    data = regular_index(spec, clips).tobytes()
    return data + checksum(data)


class ShardFiles:
    """The Zarr shards of one array in a local folder, while they are written."""

    def __init__(self, folder: Path, spec: ArraySpec, threads: int) -> None:
        """`threads`: how many pieces are written at a time."""
        self._folder = folder
        self._spec = spec
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-write")
        with storage_errors(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / GROUP_FILE).write_bytes(array_metadata(spec))

    def write(self, first: int, clips: Shaped[np.ndarray, "clip *frames"]) -> Future[None]:
        """Begin to write the clips from number `first` on, which lie in one file and stay as they are until the end.

        The future raises StorageError; once it has ended, the bytes are on the disk.
        """
        return self._pool.submit(self._write, first, np.ascontiguousarray(clips))

    def close(self) -> None:
        """Wait for what is under way, and stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _write(self, first: int, clips: Shaped[np.ndarray, "clip *frames"]) -> None:
        spec = self._spec
        number, place = divmod(first, spec.chunk[0])
        in_file = min(spec.chunk[0], spec.shape[0] - number * spec.chunk[0])
        assert place + len(clips) <= in_file, "a piece lies in one file"
        path = self._folder / spec.file(number)
        size = chunk_bytes(spec)
        chunks = clips.reshape(-1).view(np.uint8).reshape(-1, size)
        offset = place * chunks_of_clip(spec) * (size + CHECKSUM_BYTES)
        with storage_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                for chunk in chunks:
                    write_at(descriptor, [chunk.data, checksum(chunk)], offset)
                    offset += size + CHECKSUM_BYTES
                if place + len(clips) == in_file:
                    write_at(descriptor, [index_bytes(spec, in_file)], offset)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def write_at(descriptor: int, buffers: list[memoryview | bytes], offset: int) -> None:
    """Write all of some buffers at a place of a file; the system may take fewer bytes than it is given at a time."""
    left = [memoryview(buffer).cast("B") for buffer in buffers]
    while left:
        written = os.pwritev(descriptor, left, offset)
        if written == 0:
            raise StorageError("a disk takes no more bytes, and does not say why")
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
