"""KITTI, Eigen split: raw drives `DATE/DRIVE/image_02/data/*.png` with annotated depth, 10 frames a second.

The split file is the user's to give: one line a clip, `IMAGE DEPTH FOCAL`; lines whose DEPTH is `None` have no ground
truth. Depth lies in `val/DRIVE/proj_depth/groundtruth/image_02` or under `train/`, and may lack for frames before the
last one, at which it must be there.
"""

from __future__ import annotations

import re
from typing import Literal

from deltactl.errors import ConfigError
from deltactl.ingest.listing import Label, LabelledClip, Listing, frames_until, read_lines, refuse_repeats, stride
from deltactl.locations import Location

FPS = 10.0
STEP_SECONDS = 0.2
FIRST_LABELLED_FRAME = 19
"""Clips of the test split end on this frame or a later one."""
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
    root: Location, *, split_file: Location | None, split: Literal["train", "val"] = "val", frames: int = 7
) -> Listing:
    """Return the clips of the lines of `split_file` that have ground truth and enough frames before them.

    ConfigError where the split file is not given, missing or another kind of list, or the root holds no drive.
    """
    if split_file is None:
        raise ConfigError(f"KITTI needs --split-file FILE: {SPLIT_SOURCE}")
    step = stride(STEP_SECONDS, FPS)
    earliest = max((frames - 1) * step, FIRST_LABELLED_FRAME if split == "val" else 0)
    lines = read_lines(split_file, SPLIT_SOURCE)
    refuse_repeats(split_file, lines)
    clips = []
    for number, line in lines:
        image, _, rest = line.partition(" ")
        match, depth = IMAGE.fullmatch(image), rest.split()[:1]
        if not match or not depth:
            raise ConfigError(f"{split_file}: line {number} is {line[:120]!r}; expected {SPLIT_SOURCE}")
        if depth != ["None"] and int(match["frame"]) >= earliest:
            clips.append(_clip(match, frames_until(int(match["frame"]), frames, step)))
    if not any((root / clip.source).exists() for clip in clips):
        raise ConfigError(f"{root} holds none of the drives in {split_file}; expected {LAYOUT}")
    return Listing("kitti", FPS, tuple(clips))


def _clip(match: re.Match[str], indices: tuple[int, ...]) -> LabelledClip:
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
    )
    frames = tuple(f"{source}/{name}.{match['type']}" for name in names)
    return LabelledClip(f"{drive}_{camera}_{names[-1]}", source, frames, indices, labels)
