"""Labels of the evaluation sets: from the stored file to what a prediction is compared with.

In come label pictures as their owners publish them (shards keep them untouched, at their own size and depth); out come
targets, `uint8` class ids with 255 for "ignore", or `float32` metres with 0 for "none", and the part of a target that
belongs to each square crop of the frame. Pure numpy, so that evaluation and the training of heads share it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

from deltactl.errors import DeltactlError, SourceError
from deltactl.ingest.geometry import Box, bottom_centre, cut
from deltactl.locations import Location
from deltactl.reading import Limit, parse_json

IGNORED = 255
"""The class id of pixels that do not count."""

CLASSES = {"vspw": 124, "cityscapes": 19}
"""Number of classes of each segmentation set."""

CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""By class id."""
VSPW_NAMES_FILE = "label_num_dic_final.json"
"""The file in VSPW's root that maps the names of classes to their stored values, as numbers or as text."""
NAMES = Limit(1_000_000, "the names of classes")

DEPTH_RANGE_METRES = (1e-3, 80.0)
"""Depth counts strictly between these."""

KITTI_ROWS, KITTI_COLUMNS = 352, 1216
"""KITTI frames and depth are first cut to their bottom rows and centre columns."""

# The crop of Garg et al. (ECCV 2016) as used for the Eigen split: fractions of the rows and columns of the cut.
GARG_ROWS = (0.40810811, 0.99189189)
GARG_COLUMNS = (0.03594771, 0.96405229)

# Cityscapes' official label ids in the order of their train ids, 0 to 18 (github.com/mcordts/cityscapesScripts,
# helpers/labels.py); the others are ignored.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def target_of(dataset: str, label: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h2 w2"]:
    """Return the target of a stored label of `dataset` ("vspw", "cityscapes" or "kitti").

    Class ids are uint8 of the label's size; depth is float32 metres of the size of the cut, 0 where none counts.
    """
    if dataset == "kitti":
        return kitti_depth(label)
    return class_ids(dataset, label)


def class_names(dataset: str, root: Location | None) -> tuple[str, ...]:
    """Return the names of the classes by id, as far as they are known; `root` is that of the data set, where it is had.

    Names are for people to read, so a file that is absent or is something else costs them, and nothing more.
    """
    if dataset == "cityscapes":
        return CITYSCAPES_NAMES
    if dataset != "vspw" or root is None:
        return ()
    try:
        content = parse_json((root / VSPW_NAMES_FILE).read_bytes(NAMES))
        values = {int(value): str(name) for name, value in content.items()}
    except (DeltactlError, OSError, ValueError, TypeError, AttributeError):
        return ()
    return tuple(values.get(number + 1, f"class {number}") for number in range(CLASSES["vspw"]))


def class_ids(dataset: str, label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return the class ids, 0 to `CLASSES[dataset]` - 1, or 255 where the pixel is ignored."""
    return np.asarray(_class_table(dataset)[label])


def _class_table(dataset: str) -> UInt8[np.ndarray, 256]:
    table = np.full(256, IGNORED, np.uint8)
    if dataset == "vspw":
        # 0 means unlabelled and 255 void: both end outside 0–123.
        table[1 : 1 + CLASSES["vspw"]] = np.arange(CLASSES["vspw"])
    elif dataset == "cityscapes":
        table[list(CITYSCAPES_LABEL_IDS)] = np.arange(CLASSES["cityscapes"])
    else:
        raise ValueError(f"dataset is {dataset!r}, expected 'vspw' or 'cityscapes'")
    return table


def kitti_box(height: int, width: int) -> Box:
    """Return the part of a KITTI frame of `height` × `width` pixels that is used; ValueError where it is smaller."""
    return bottom_centre(height, width, KITTI_ROWS, KITTI_COLUMNS)


def kitti_depth(label: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "352 1216"]:
    """Return depth in metres of the cut: 0 outside the Garg crop and outside `DEPTH_RANGE_METRES`."""
    depth = cut(label, kitti_box(*label.shape)).astype(np.float32) / 256
    low, high = DEPTH_RANGE_METRES
    counts = (depth > low) & (depth < high) & garg_crop(*depth.shape)
    return np.where(counts, depth, np.float32(0))


def garg_crop(height: int, width: int) -> Shaped[np.ndarray, "h w"]:
    """Return a boolean mask of the Garg crop; each bound is truncated to an integer."""
    mask = np.zeros((height, width), bool)
    rows = slice(*(int(bound * height) for bound in GARG_ROWS))
    columns = slice(*(int(bound * width) for bound in GARG_COLUMNS))
    mask[rows, columns] = True
    return mask


def check_label(dataset: str, label: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise SourceError, which names the file, unless a stored label has its set's depth and its frame's size."""
    bits = 16 if dataset == "kitti" else 8
    if label.ndim != 2 or label.dtype != np.dtype(f"uint{bits}"):
        raise SourceError(
            f"label {name} has {label.dtype} pixels of shape {label.shape}; expected one channel of {bits} bits"
        )
    check_label_size(label.shape, size, name)


def check_label_size(found: tuple[int, ...], size: tuple[int, int], name: str) -> None:
    """Raise SourceError, which names the file, unless a label is as large as its frame: (height, width) of both."""
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
