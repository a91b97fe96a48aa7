"""Reads clips of a store in an object store without tensorstore, by ranges of its files: for forked processes.

tensorstore ends a process that was forked from one in which it was at work, as the workers of a `DataLoader` mostly
are. Here every chunk is one request for its bytes and their checksum, a few of them at once; slower for one reader, but
there are as many as there are workers. The index at the end of a Zarr shard is read once and kept.
"""

from __future__ import annotations

import os
import sys

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.errors import DamagedError
from deltactl.featurize.store.group import ArrayFile, GroupHandle, Span
from deltactl.featurize.store.local_reader import ABSENT, KEPT_INDEXES, ThreadedReader
from deltactl.locations import Location

CHECKSUM_BYTES = 4


class RangesReader(ThreadedReader):
    """Reads by ranges of the files of a store."""

    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        array = span.group.array()
        place = span.group.root / array.shard_name(span.row)
        index = self._index(place, array, span.group)
        chunk_bytes = array.chunk_frames * array.frame_bytes
        first = span.first // array.chunk_frames
        for number in range(span.count // array.chunk_frames):
            offset, stored = map(int, index[span.row % array.shard_clips, first + number])
            frame = span.first + number * array.chunk_frames
            where = f"{place}: clip {span.group.keys[span.row]!r}, frame {frame}"
            if offset == ABSENT or stored != chunk_bytes + CHECKSUM_BYTES:
                raise DamagedError(f"{where} is missing; {span.group.remedy}")
            data = _checked(_bytes(place, offset, offset + stored, span.group))
            if data is None or len(data) != chunk_bytes:
                raise DamagedError(f"{where} does not match its checksum; {span.group.remedy}")
            out[number * chunk_bytes : (number + 1) * chunk_bytes] = np.frombuffer(data, np.uint8)

    def _index(self, place: Location, array: ArrayFile, group: GroupHandle) -> Shaped[np.ndarray, "clip chunk 2"]:
        with self._lock:
            if place.url in self._indexes:
                self._indexes.move_to_end(place.url)
                return self._indexes[place.url]
        chunks = array.frames // array.chunk_frames
        size = array.shard_clips * chunks * 16
        data = _checked(_bytes(place, -(size + CHECKSUM_BYTES), None, group))
        if data is None or len(data) != size:
            raise DamagedError(f"{place} is damaged: the index at its end does not match its checksum; {group.remedy}")
        index = np.frombuffer(data, "<u8").reshape(array.shard_clips, chunks, 2)
        with self._lock:
            self._indexes[place.url] = index
            if len(self._indexes) > KEPT_INDEXES:
                self._indexes.popitem(last=False)
        return index


def is_forked_from_tensorstore() -> bool:
    """Whether this process was forked from one that had loaded tensorstore, so that it must not use it."""
    return _forked


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = _forked or "tensorstore" in sys.modules


os.register_at_fork(after_in_child=_note_fork)


def _bytes(place: Location, first: int, last: int | None, group: GroupHandle) -> bytes:
    try:
        return place.read_range(first, last)
    except FileNotFoundError as error:
        raise DamagedError(f"{place} is missing; {group.remedy}") from error


def _checked(data: bytes) -> bytes | None:
    """Return bytes without the CRC-32C at their end; None where it is not theirs."""
    content, stored = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    return content if google_crc32c.value(content) == int.from_bytes(stored, "little") else None
