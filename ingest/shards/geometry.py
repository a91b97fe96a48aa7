"""Which pixels of a frame are used: the cut, the stored size, and the crops that the frozen backbone sees.

Takes sizes (height, width) in pixels, returns sizes and boxes; only `cut` and `resize` touch pixels. Frames are
resized as uint8 with OpenCV's bilinear filter without antialiasing, as published (arXiv 2604.04913).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.configs.frame_size import FrameSize

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


def evaluation_size(height: int, width: int, size: FrameSize) -> tuple[int, int]:
    """Return the (height, width) at which a frame of an evaluation set is stored.

    For squares of a size the short side becomes that; the long side is scaled alike, rounded, and at most twice as
    long. For another rectangle the frame becomes that, whole.
    """
    if min(height, width) < 1:
        raise ValueError(f"height and width are {height} and {width}, expected at least 1 each")
    if not size.square:
        return size.pair
    short = size.height
    long = min(round(max(height, width) * short / min(height, width)), MAX_ASPECT * short)
    return (short, long) if height <= width else (long, short)


def kept_size(height: int, width: int, size: FrameSize) -> tuple[int, int]:
    """Return the (height, width) at which a frame of training video is stored, its aspect kept.

    It is shrunk as far as both sides keep 1.3 × those that it must serve; never enlarged.
    """
    least_height, least_width = (round(side * SHRINK_MARGIN) for side in size.pair)
    by_height, by_width = least_height / height, least_width / width
    if max(by_height, by_width) >= 1:
        return height, width
    if by_height >= by_width:
        return least_height, round(width * by_height)
    return round(height * by_width), least_width


def square_crops(height: int, width: int) -> tuple[Box, ...]:
    """Return the square crops of a frame: one of a square frame, else two, at the two ends of the long side."""
    side = min(height, width)
    if height == width:
        return (Box(0, 0, side, side),)
    return Box(0, 0, side, side), Box(height - side, width - side, side, side)


def crops_overlap(height: int, width: int) -> bool:
    """Return whether the two square crops of a frame share pixels: its long side is under twice its short one."""
    return max(height, width) < MAX_ASPECT * min(height, width)


def whole_frame(height: int, width: int) -> Box:
    """Return the box of all of a frame."""
    return Box(0, 0, height, width)


def evaluated_crops(height: int, width: int, size: FrameSize) -> tuple[Box, ...]:
    """Return the parts of a stored frame that an evaluation at a size looks at: square crops, or all of a rectangle."""
    return square_crops(height, width) if size.square else (whole_frame(height, width),)


def centre_crop(height: int, width: int, aspect: float) -> Box:
    """Return the largest box in the middle of a frame whose width is `aspect` times its height."""
    rows, columns = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


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
