"""KITTI, Eigen split: raw drives `DATE/DRIVE/image_02/data/*.png` with annotated depth, 10 frames a second.

The split file is the user's to give: one line a clip, `IMAGE DEPTH FOCAL`; lines whose DEPTH is `None` have no ground
truth. Depth lies in `val/DRIVE/proj_depth/groundtruth/image_02` or under `train/`, and may lack for frames before the
last one, at which it must be there.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt16

from deltactl.datasets.listing import (
    Label,
    LabelledClip,
    Listing,
    frames_before,
    frames_until,
    read_lines,
    refuse_repeats,
    stride,
)
from deltactl.datasets.record import LabelledSet, PaperFigures
from deltactl.errors import ConfigError
from deltactl.ingest.shards.geometry import Box, bottom_centre, cut
from deltactl.locations import Location

FPS = 10.0
STEP_SECONDS = 0.2
FIRST_LABELLED_FRAME = 19
"""Clips of the test split end on this frame or a later one."""
ROWS, COLUMNS = 352, 1216
"""Frames and depth are first cut to their bottom rows and centre columns."""
DEPTH_RANGE_METRES = (1e-3, 80.0)
"""Depth counts strictly between these."""

# The crop of Garg et al. (ECCV 2016) as used for the Eigen split: fractions of the rows and columns of the cut.
GARG_ROWS = (0.40810811, 0.99189189)
GARG_COLUMNS = (0.03594771, 0.96405229)

LAYOUT = (
    "the KITTI root, with the raw drives as DATE/DRIVE/image_02/data and the annotated depth as train/DRIVE/proj_depth "
    "and val/DRIVE/proj_depth (cvlibs.net/datasets/kitti: raw data, and data_depth_annotated.zip)"
)
SPLIT_SOURCE = (
    "the Eigen split, a list with IMAGE DEPTH FOCAL on each of its 697 lines, which the depth repositories "
    "cleinc/bts (eigen_test_files_with_gt.txt) and shariqfarooq123/AdaBins carry on GitHub in train_test_inputs"
)
IMAGE = re.compile(
    r"(?P<date>(?!\.+/)[^/\s]+)/(?P<drive>(?!\.+/)[^/\s]+)/(?P<camera>image_\d\d)/data/(?P<frame>\d+)\.(?P<type>png|jpg)"
)


def list_clips(
    root: Location,
    *,
    split_file: Location | None,
    split: Literal["train", "val"] = "val",
    frames: int = 7,
    frames_per_step: int = 1,
) -> Listing:
    """Return the clips of the lines of `split_file` that have ground truth and enough frames before them.

    Raises:
        ConfigError: the split file is not given, missing or another kind of list, or the root holds no drive.
    """
    if split_file is None:
        raise ConfigError(f"KITTI needs --split-file FILE: {SPLIT_SOURCE}")
    step = stride(STEP_SECONDS, FPS)
    before = frames_before(frames, step, frames_per_step)
    earliest = max(before, FIRST_LABELLED_FRAME if split == "val" else 0)
    lines = read_lines(split_file, SPLIT_SOURCE)
    refuse_repeats(split_file, lines)
    clips = []
    for number, line in lines:
        image, _, rest = line.partition(" ")
        match, depth = IMAGE.fullmatch(image), rest.split()[:1]
        if not match or not depth:
            raise ConfigError(f"{split_file}: line {number} is {line[:120]!r}; expected {SPLIT_SOURCE}")
        if depth != ["None"] and int(match["frame"]) >= earliest:
            indices = frames_until(int(match["frame"]), frames, step, frames_per_step)
            clips.append(_clip(match, indices, frames_per_step))
    if clips and not any((root / clip.source).exists() for clip in clips):
        raise ConfigError(f"{root} holds none of the drives in {split_file}; expected {LAYOUT}")
    return Listing(tuple(clips))


def _clip(match: re.Match[str], indices: tuple[int, ...], frames_per_step: int) -> LabelledClip:
    drive, camera, digits = match["drive"], match["camera"], len(match["frame"])
    source = f"{match['date']}/{drive}/{camera}/data"
    names = [f"{index:0{digits}}" for index in indices]
    labels = tuple(
        Label(
            number,
            tuple(f"{part}/{drive}/proj_depth/groundtruth/{camera}/{name}.png" for part in ("val", "train")),
            required=number == len(names) - 1,
        )
        for number, name in enumerate(names)
        if (number + 1) % frames_per_step == 0
    )
    frames = tuple(f"{source}/{name}.{match['type']}" for name in names)
    return LabelledClip(f"{drive}_{camera}_{names[-1]}", source, frames, indices, labels, video=drive)


def used(height: int, width: int) -> Box:
    """Return the part of a frame of `height` × `width` pixels that is used.

    Raises:
        ValueError: the frame is smaller than that.
    """
    return bottom_centre(height, width, ROWS, COLUMNS)


def depth_metres(label: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "352 1216"]:
    """Return depth in metres of the cut: 0 outside the Garg crop and outside `DEPTH_RANGE_METRES`."""
    depth = cut(label, used(*label.shape)).astype(np.float32) / 256
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


KITTI = LabelledSet(
    name="kitti",
    title="KITTI",
    split="val",
    listing=list_clips,
    fps=FPS,
    task="depth",
    label="depth",
    target=depth_metres,
    used=used,
    paper=PaperFigures(
        {
            ("present", "", 1): 2.79,
            ("present", "", 3): 2.79,
            ("deltatok", "", 1): 2.78,
            ("deltatok", "", 3): 2.86,
            ("copy_last", "", 1): 3.76,
            ("copy_last", "", 3): 4.86,
            ("deltaworld", "best", 1): 2.95,
            ("deltaworld", "mean", 1): 3.32,
            ("deltaworld", "best", 3): 3.71,
            ("deltaworld", "mean", 3): 4.74,
        },
        least_clips=600,  # the split has 652 with ground truth at most
    ),
)
