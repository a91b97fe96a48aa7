"""Reads clips of a store in an object store without tensorstore, by ranges of its files: for forked processes.

tensorstore ends a process that was forked from one in which it was at work, as the workers of a `DataLoader` mostly
are. Here every chunk is one request for its bytes and their checksum, a few of them at once; slower for one reader, but
there are as many as there are workers. The index at the end of a Zarr shard is read once and kept.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from jaxtyping import UInt8

from deltactl.errors import DamagedError
from deltactl.featurize.store.array_files import CHECKSUM_BYTES, checksum
from deltactl.featurize.store.group import ArrayFile, GroupHandle, Span
from deltactl.featurize.store.local_reader import ShardIndex, ThreadedReader, told
from deltactl.locations import Location


class RangesReader(ThreadedReader):
    """Reads by ranges of the files of a store."""

    def _read(self, span: Span, out: UInt8[np.ndarray, " bytes"]) -> None:
        array, group = span.group.array(), span.group
        place = array.file(span.row)
        index = self._kept(place.url, lambda: _read_index(place, array, span))
        size = array.chunk_frames * array.frame_bytes
        first, clip = span.first // array.chunk_frames, array.place(span.row)
        for number in range(span.count // array.chunk_frames):
            offset = index.offset(clip, first + number)
            if offset is None:
                raise DamagedError(f"{place}: {told(span, number)} is missing; {group.remedy}")
            data = _checked(_bytes(place, offset, offset + size + CHECKSUM_BYTES, group))
            if data is None or len(data) != size:
                raise DamagedError(f"{place}: {told(span, number)} does not match its checksum; {group.remedy}")
            out[number * size : (number + 1) * size] = np.frombuffer(data, np.uint8)


def _read_index(place: Location, array: ArrayFile, span: Span) -> ShardIndex:
    size = ShardIndex.size(array)
    data = _checked(_bytes(place, -(size + CHECKSUM_BYTES), None, span.group))
    if data is None or len(data) != size:
        remedy = span.group.remedy
        raise DamagedError(f"{place} is damaged: the index at its end does not match its checksum; {remedy}")
    return ShardIndex.of(data, array, span.row)


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
    return content if checksum(content) == stored else None
