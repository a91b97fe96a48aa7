"""Labels of evaluation sets, whatever the set: what a stored one must be, and which part of it belongs to which crop.

Shards keep label pictures as their owners publish them, untouched, at their own size and depth. The record of a data
set turns one into a target: `uint8` class ids with 255 for "ignore", or `float32` metres with 0 for "none". Pure numpy:
evaluation and the training of heads share it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from deltactl.errors import SourceError

IGNORED = 255
"""The class id of pixels that do not count."""


def check_label(label: np.ndarray, bits: int, size: tuple[int, int], name: str) -> None:
    """Check that a stored label has its set's depth and its frame's size.

    Raises:
        SourceError: it has not; the message names the file.
    """
    if label.ndim != 2 or label.dtype != np.dtype(f"uint{bits}"):
        raise SourceError(
            f"label {name} has {label.dtype} pixels of shape {label.shape}; expected one channel of {bits} bits"
        )
    check_label_size(label.shape, size, name)


def check_label_size(found: tuple[int, ...], size: tuple[int, int], name: str) -> None:
    """Check that a label is as large as its frame: (height, width) of both.

    Raises:
        SourceError: it is not; the message names the file.
    """
    if found != size:
        raise SourceError(f"label {name} is {by(found)} pixels but its frame is {by(size)}")


def split_target(
    target: Shaped[np.ndarray, "h w"], frame_size: tuple[int, int]
) -> tuple[Shaped[np.ndarray, "h2 w2"], ...]:
    """Return the part of a target that belongs to each square crop of its frame: all of it, or two equal halves.

    `frame_size` is the (height, width) of the stored frame. The target is cut at n // 2 along the frame's long side, so
    that no pixel counts twice; for an odd n the first half gets one row or column that does not count at its end.
    """
    height, width = frame_size
    if height == width:
        return (target,)
    axis = int(width > height)
    length = target.shape[axis]
    first, second = np.split(target, [length // 2], axis=axis)
    if length % 2:
        nothing = 0 if np.issubdtype(target.dtype, np.floating) else IGNORED
        padding = ((0, 0), (0, 1)) if axis else ((0, 1), (0, 0))
        first = np.pad(first, padding, constant_values=nothing)
    return first, second


def by(size: tuple[int, ...]) -> str:
    """Return a size in words: `352 × 1216`."""
    return " × ".join(str(side) for side in size)
