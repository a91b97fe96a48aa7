"""Reads clips of a store on a local disk: straight from the file into the batch, every byte against its checksum.

Takes spans (a run of frames of one clip) and the buffer they belong in; each span is read by one of a few threads
with `preadv`, a chunk at a time, which is still in the processor's cache when its CRC-32C is taken. One copy, no
decoded chunk in between: three times as fast as through a Zarr library, since chunks are not compressed and lie in the
file as they lie in memory. The index at the end of a Zarr shard (16 bytes a chunk) is read once; where it says what can
be told without it, as in all files that deltactl writes, only that is kept.

Threads, not processes: `preadv` and the checksum (of a megabyte or more) let go of the interpreter's lock.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8, UInt64

from deltactl.errors import DamagedError, StorageError
from deltactl.featurize.store.array_files import ABSENT, CHECKSUM_BYTES, checksum, chunk_bytes, regular_index
from deltactl.featurize.store.group import ArrayFile, Span
from deltactl.reading import UnreadableError, open_descriptor, reason_of

ROWS_OF_A_JOB = 64
"""Small reads that are worth another thread: each takes microseconds."""
KEPT_INDEXES = 1 << 16
"""Zarr shards of which is kept what their index says: next to nothing where it is regular."""


@dataclass(frozen=True)
class ShardIndex:
    """Where the chunks of a Zarr shard lie."""

    chunks: int
    """Chunks of a clip."""
    stored: int
    """Bytes of a chunk, with its checksum."""
    present: int
    """Chunks that the file holds, where they lie one after the other."""
    entries: UInt64[np.ndarray, "chunk 2"] | None = None
    """Offset and length of each, where they do not."""

    @classmethod
    def of(cls, data: bytes, array: ArrayFile, row: int) -> ShardIndex:
        """Return what the index in `data`, of the file that holds a clip, says."""
        chunks = array.frames // array.chunk_frames
        entries = np.frombuffer(data, "<u8").reshape(-1, 2)
        regular = regular_index(array.spec, array.clips_in(row))
        stored, present = chunk_bytes(array.spec) + CHECKSUM_BYTES, array.clips_in(row) * chunks
        return cls(chunks, stored, present, None if np.array_equal(entries, regular) else entries)

    def offset(self, clip: int, chunk: int) -> int | None:
        """Return where a chunk begins; None where it is not there as it should be."""
        number = clip * self.chunks + chunk
        if self.entries is None:
            return number * self.stored if number < self.present else None
        offset, length = map(int, self.entries[number])
        return None if offset == ABSENT or length != self.stored else offset

    @staticmethod
    def size(array: ArrayFile) -> int:
        """Return the bytes of an index, without its checksum."""
        return array.file_clips * (array.frames // array.chunk_frames) * 16


class ThreadedReader(ABC):
    """Threads that read spans of clips, and the indexes of Zarr shards that they keep."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._indexes: OrderedDict[str, ShardIndex] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames *frame"]) -> list[Future[None]]:
        """Begin to read each span into its row of `out`; the futures raise DamagedError or StorageError."""
        rows = out.reshape(len(spans), -1).view(np.uint8)
        return [self._pool.submit(self._read_wherever, span, rows[number]) for number, span in enumerate(spans)]

    def start_rows(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames"]) -> list[Future[None]]:
        """Begin the same with spans of one chunk and few bytes each."""
        return self.start(spans, out)

    def close(self) -> None:
        """Stop the threads; reads that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _read_wherever(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        """Read one span; where a file of its group is gone, look whether the group has moved into a pack."""
        folder = span.group.folder
        try:
            self._read(span, out)
        except DamagedError:
            if not span.group.moved_from(folder):
                raise
            self._read(span, out)

    @abstractmethod
    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        """Read one span; DamagedError or StorageError."""

    def _kept(self, name: str, read: Callable[[], ShardIndex]) -> ShardIndex:
        """Return the index of a Zarr shard, read on its first use."""
        with self._lock:
            if name in self._indexes:
                self._indexes.move_to_end(name)
                return self._indexes[name]
        index = read()
        with self._lock:
            self._indexes[name] = index
            if len(self._indexes) > KEPT_INDEXES:
                self._indexes.popitem(last=False)
        return index


class LocalReader(ThreadedReader):
    """Reads from the files of a store on a disk."""

    def start_rows(self, spans: Sequence[Span], out: UInt8[np.ndarray, "span bytes"]) -> list[Future[None]]:
        """Begin to read spans of one chunk and few bytes each, many in a job, which opens each file once."""
        jobs = max(1, min(self._threads, len(spans) // ROWS_OF_A_JOB))
        return [
            self._pool.submit(self._read_rows, spans[first::jobs], out[first::jobs])
            for first in range(min(jobs, len(spans)))
        ]

    def _read_rows(self, spans: Sequence[Span], out: UInt8[np.ndarray, "span bytes"]) -> None:
        opened: dict[str, tuple[int, ShardIndex]] = {}
        try:
            for span, row in zip(spans, out, strict=True):
                if not self._read_row(span, row, opened):
                    self._read_wherever(span, row)  # which finds it elsewhere, or says what is wrong with it
        finally:
            for descriptor, _ in opened.values():
                os.close(descriptor)

    def _read_row(
        self, span: Span, out: UInt8[np.ndarray, " bytes"], opened: dict[str, tuple[int, ShardIndex]]
    ) -> bool:
        """Read a span of one chunk and return whether all was well; files stay in `opened`, with their indexes."""
        try:
            array = span.group.array()
            path = array.file(span.row).url
            if path not in opened:
                descriptor = open_descriptor(path)
                try:
                    opened[path] = descriptor, self._kept(path, lambda: _read_index(descriptor, path, array, span))
                except BaseException:
                    os.close(descriptor)
                    raise
            descriptor, index = opened[path]
            offset = index.offset(array.place(span.row), 0)
            return offset is not None and _read_checked(descriptor, out, offset)
        except (DamagedError, OSError):
            return False

    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        array = span.group.array()
        path = array.file(span.row).url
        try:
            descriptor = open_descriptor(path)
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is missing; {span.group.remedy}") from error
        except (UnreadableError, IsADirectoryError) as error:
            raise DamagedError(f"{path} is damaged: it {reason_of(error)}; {span.group.remedy}") from error
        except OSError as error:
            raise StorageError(f"could not open {path}: {error}") from error
        try:
            index = self._kept(path, lambda: _read_index(descriptor, path, array, span))
            size = array.chunk_frames * array.frame_bytes
            first, clip = span.first // array.chunk_frames, array.place(span.row)
            for number in range(span.count // array.chunk_frames):
                offset = index.offset(clip, first + number)
                piece = out[number * size : (number + 1) * size]
                if offset is None:
                    raise DamagedError(f"{path}: {told(span, number)} is missing; {span.group.remedy}")
                if not _read_checked(descriptor, piece, offset):
                    raise DamagedError(f"{path}: {told(span, number)} does not match its checksum; {span.group.remedy}")
        except OSError as error:
            raise StorageError(f"could not read {path}: {error}") from error
        finally:
            os.close(descriptor)


def told(span: Span, number: int) -> str:
    """Return clip and frame of a chunk of a span, in words."""
    frame = span.first + number * span.group.layout.chunk_frames
    return f"clip {span.group.keys[span.row]!r}, frame {frame}"


def _read_index(descriptor: int, path: str, array: ArrayFile, span: Span) -> ShardIndex:
    size = ShardIndex.size(array)
    end = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size + CHECKSUM_BYTES, max(end - size - CHECKSUM_BYTES, 0))
    if len(data) != size + CHECKSUM_BYTES or checksum(data[:size]) != data[size:]:
        raise DamagedError(f"{path} is damaged: the index at its end does not match its checksum; {span.group.remedy}")
    return ShardIndex.of(data[:size], array, span.row)


def _read_checked(descriptor: int, out: UInt8[np.ndarray, " bytes"], offset: int) -> bool:
    """Fill `out` from the file and return whether the CRC-32C that follows it there is its own."""
    stored = bytearray(4)
    buffers: list[Any] = [out, stored]
    read = os.preadv(descriptor, buffers, offset)
    # A file that ends early gives fewer bytes.
    return read == len(out) + 4 and google_crc32c.value(out) == int.from_bytes(stored, "little")
