"""The columns of a store: what clips carry besides features or tokens, as rows of bytes and as texts.

    STORE/v000/NNNNNN/columns    uint8 (clip, byte): the numbers of each clip, column after column in the order of their
                                 names, little-endian; attribute `columns`: type, shape and first byte of each
    STORE/v000/NNNNNN/zarr.json  attributes: `texts`, of each column of texts one for each clip

One array holds columns of any types exactly, for three inodes a group (or a pack) whatever their number; its inner
chunk is one clip, so that a batch of any clips reads their bytes alone. The bytes of a clip without columns (it is
quarantined, or has no such view) are all 255, NaN where floats are asked for, and its texts are null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.ingest.shards.columns import Column, Columns, checked_clip, number_columns, text_columns

COLUMNS = "columns"
"""Name of the array."""
ABSENT_BYTE = 255


def bytes_of(columns: Columns, frames: int) -> int:
    """Return the bytes that the numbers of a clip of so many frames have."""
    return sum(column.bytes_of(frames) for column in columns)


def places(columns: Columns, frames: int) -> Iterator[tuple[Column, slice]]:
    """Yield the columns that hold numbers, and their bytes in a row."""
    first = 0
    for column in number_columns(columns):
        yield column, slice(first, first + column.bytes_of(frames))
        first += column.bytes_of(frames)


def described(columns: Columns, frames: int) -> dict[str, Any]:
    """Return the attribute of the array: type, shape in a clip and first byte of each column, by name."""
    return {
        column.name: {"dtype": column.dtype, "shape": list(column.shape_of(frames)), "first_byte": place.start}
        for column, place in places(columns, frames)
    }


def to_row(values: Mapping[str, np.ndarray], columns: Columns, frames: int) -> UInt8[np.ndarray, " byte"]:
    """Return the numbers of a clip as they are stored."""
    parts = [
        np.ascontiguousarray(values[column.name], np.dtype(column.dtype).newbyteorder("<")).tobytes()
        for column, _ in places(columns, frames)
    ]
    return np.frombuffer(b"".join(parts), np.uint8)


def from_rows(
    rows: UInt8[np.ndarray, "clip byte"], columns: Columns, frames: int
) -> dict[str, Shaped[np.ndarray, "clip ..."]]:
    """Return the numbers of stored clips, by column: (clip, T, …), or (clip, …) where they belong to the clip."""
    return {
        column.name: np.ascontiguousarray(rows[:, place])
        .reshape(-1)
        .view(np.dtype(column.dtype).newbyteorder("<"))
        .reshape(len(rows), *column.shape_of(frames))
        for column, place in places(columns, frames)
    }


class CarriedRows:
    """The columns of a group's clips while they come."""

    def __init__(self, columns: Columns, clips: int, frames: int) -> None:
        self._columns = columns
        self._frames = frames
        self.rows = np.full((clips, bytes_of(columns, frames)), ABSENT_BYTE, np.uint8)
        """The numbers of each clip."""
        self.texts: dict[str, list[Any]] = {column.name: [None] * clips for column in text_columns(columns)}
        """The texts of each clip, by column."""

    def put(self, row: int, values: Mapping[str, np.ndarray]) -> str | None:
        """Take the columns of a clip; return what is wrong with them, None where nothing is."""
        if (fault := checked_clip(values, self._columns, self._frames)) is not None:
            return fault
        self.rows[row] = to_row(values, self._columns, self._frames)
        for name, texts in self.texts.items():
            texts[row] = values[name].tolist()
        return None

    def drop(self, rows: Sequence[int]) -> None:
        """Forget those of clips that are left out."""
        for row in rows:
            self.rows[row] = ABSENT_BYTE
            for texts in self.texts.values():
                texts[row] = None
