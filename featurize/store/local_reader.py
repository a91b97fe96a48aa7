"""Reads clips of a store on a local disk: straight from the file into the batch, every byte against its checksum.

Takes spans (a run of frames of one clip) and the buffer they belong in; each span is read by one of a few threads
with `preadv`, a chunk at a time, which is still in the processor's cache when its CRC-32C is taken. One copy, no
decoded chunk in between: three times as fast as through a Zarr library, since chunks are not compressed and lie in the
file as they lie in memory. The index at the end of a Zarr shard (1 kB) is read once and kept.

Threads, not processes: `preadv` and the checksum (of a megabyte or more) let go of the interpreter's lock.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.errors import DamagedError, StorageError
from deltactl.featurize.store.group import ArrayFile, GroupHandle, Span
from deltactl.reading import UnreadableError, open_descriptor, reason_of

KEPT_INDEXES = 1 << 16
"""Zarr shards whose index is kept in memory (1 kB each)."""
ABSENT = np.uint64(2**64 - 1)


class ThreadedReader(ABC):
    """Threads that read spans of clips, and the indexes of Zarr shards that they keep."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._indexes: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames *frame"]) -> list[Future[None]]:
        """Begin to read each span into its row of `out`; the futures raise DamagedError or StorageError."""
        rows = out.reshape(len(spans), -1).view(np.uint8)
        return [self._pool.submit(self._read, span, rows[number]) for number, span in enumerate(spans)]

    def close(self) -> None:
        """Stop the threads; reads that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    @abstractmethod
    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        """Read one span; DamagedError or StorageError."""


class LocalReader(ThreadedReader):
    """Reads from the files of a store on a disk."""

    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        array = span.group.array()
        path = span.group.root.path / array.shard_name(span.row)
        try:
            descriptor = open_descriptor(path)
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is missing; {span.group.remedy}") from error
        except (UnreadableError, IsADirectoryError) as error:
            raise DamagedError(f"{path} is damaged: it {reason_of(error)}; {span.group.remedy}") from error
        except OSError as error:
            raise StorageError(f"could not open {path}: {error}") from error
        try:
            index = self._index(descriptor, str(path), array, span.group)
            chunk_bytes = array.chunk_frames * array.frame_bytes
            first = span.first // array.chunk_frames
            for number in range(span.count // array.chunk_frames):
                offset, stored = index[span.row % array.shard_clips, first + number]
                frame = span.first + number * array.chunk_frames
                where = f"{path}: clip {span.group.keys[span.row]!r}, frame {frame}"
                if offset == ABSENT or stored != chunk_bytes + 4:
                    raise DamagedError(f"{where} is missing; {span.group.remedy}")
                piece = out[number * chunk_bytes : (number + 1) * chunk_bytes]
                if not _read_checked(descriptor, piece, int(offset)):
                    raise DamagedError(f"{where} does not match its checksum; {span.group.remedy}")
        except OSError as error:
            raise StorageError(f"could not read {path}: {error}") from error
        finally:
            os.close(descriptor)

    def _index(
        self, descriptor: int, path: str, array: ArrayFile, group: GroupHandle
    ) -> Shaped[np.ndarray, "clip chunk 2"]:
        with self._lock:
            if path in self._indexes:
                self._indexes.move_to_end(path)
                return self._indexes[path]
        chunks = array.frames // array.chunk_frames
        size = array.shard_clips * chunks * 16
        end = os.fstat(descriptor).st_size
        data = os.pread(descriptor, size + 4, max(end - size - 4, 0))
        if len(data) != size + 4 or google_crc32c.value(data[:size]) != int.from_bytes(data[size:], "little"):
            raise DamagedError(f"{path} is damaged: the index at its end does not match its checksum; {group.remedy}")
        index = np.frombuffer(data[:size], "<u8").reshape(array.shard_clips, chunks, 2)
        with self._lock:
            self._indexes[path] = index
            if len(self._indexes) > KEPT_INDEXES:
                self._indexes.popitem(last=False)
        return index


def _read_checked(descriptor: int, out: UInt8[np.ndarray, " bytes"], offset: int) -> bool:
    """Fill `out` from the file and return whether the CRC-32C that follows it there is its own."""
    stored = bytearray(4)
    buffers: list[Any] = [out, stored]
    read = os.preadv(descriptor, buffers, offset)
    # A file that ends early gives fewer bytes.
    return read == len(out) + 4 and google_crc32c.value(out) == int.from_bytes(stored, "little")
