"""Which pixels of a frame are used: the cut, the evaluation size, and the square crops that the frozen backbone sees.

Takes sizes (height, width) in pixels, returns sizes and boxes; only `cut` and `resize` touch pixels. Frames are
resized as uint8 with OpenCV's bilinear filter without antialiasing, as published (arXiv 2604.04913).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

MAX_ASPECT = 2
"""A stored frame is at most this many times as long as it is short, so that two squares cover it."""
SHRINK_MARGIN = 1.3
"""Training frames keep up to this many times the size that they must serve: the smallest crop still has its pixels."""


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def evaluation_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the (height, width) at which a frame of an evaluation set is stored.

    The short side becomes `size`; the long side is scaled alike, rounded, and at most twice `size`.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"height, width and size are {height}, {width} and {size}, expected at least 1 each")
    long = min(round(max(height, width) * size / min(height, width)), MAX_ASPECT * size)
    return (size, long) if height <= width else (long, size)


def square_crops(height: int, width: int) -> tuple[Box, ...]:
    """Return the square crops of a frame: one of a square frame, else two, at the two ends of the long side."""
    side = min(height, width)
    if height == width:
        return (Box(0, 0, side, side),)
    return Box(0, 0, side, side), Box(height - side, width - side, side, side)


def crops_overlap(height: int, width: int) -> bool:
    """Return whether the two square crops of a frame share pixels: its long side is under twice its short one."""
    return max(height, width) < MAX_ASPECT * min(height, width)


def bottom_centre(height: int, width: int, rows: int, columns: int) -> Box:
    """Return the box of the bottom `rows` and the centre `columns` of a frame.

    Raises:
        ValueError: the frame is smaller than that.
    """
    if rows > height or columns > width:
        raise ValueError(f"a frame of {height} × {width} pixels has no box of {rows} × {columns}")
    return Box(height - rows, (width - columns) // 2, rows, columns)


def cut(image: Shaped[np.ndarray, "h w *c"], box: Box) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """Return the pixels of `image` inside `box`, as a view."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def resize(frame: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the frame at another size: OpenCV's INTER_LINEAR on uint8, no antialiasing."""
    import cv2

    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR))
