"""How a decoded picture must be turned and mirrored to be seen as it was meant.

Takes a decoded frame's metadata, returns one of the eight orientations that quarter turns and mirroring make; both
decoders apply it to their pictures with the same function. Phones and front cameras do not turn their pixels: they
write a display matrix into the file. What it means is what FFmpeg's own program makes of it (its `autorotate`); a turn
that is not by quarters counts as the nearest one, without black corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """Rows and columns exchanged or not, then rows and columns reversed or not."""

    exchanged: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Return the picture as it is meant to be seen; the picture itself if nothing is to be done."""
        if self == UPRIGHT:
            return image
        if self.exchanged:
            image = image.transpose(1, 0, 2)
        rows = slice(None, None, -1 if self.rows_reversed else 1)
        columns = slice(None, None, -1 if self.columns_reversed else 1)
        return np.ascontiguousarray(image[rows, columns])


UPRIGHT = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """Return the orientation of a frame (PyAV's `VideoFrame`), from its display matrix."""
    for data in frame.side_data:
        if data.type == SideDataType.DISPLAYMATRIX:
            return orientation_of_matrix(*(int(value) for value in np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]]))
    return UPRIGHT


def orientation_of_matrix(a: int, b: int, c: int, d: int) -> Orientation:
    """Return the orientation of a display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y).

    y points down. The numbers are the matrix's own, of whatever scale.
    """
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, rows_reversed=b < 0, columns_reversed=c < 0)
    return Orientation(False, rows_reversed=d < 0, columns_reversed=a < 0)
