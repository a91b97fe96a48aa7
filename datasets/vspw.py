"""VSPW (video scene parsing in the wild): `val.txt`, `data/V/origin/*.jpg`, `data/V/mask/*.png`, 15 frames a second.

Labelled frames are every 20th of a video (number 19, 39, …); each frame of a clip has a mask. Frames are numbered by
their position among the sorted names of frames and masks together: a missing file does not shift the others, and is
noticed when its clip is read. `._*` files, left by archives, do not count.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from deltactl.datasets.listing import (
    Label,
    LabelledClip,
    Listing,
    Unusable,
    frames_before,
    frames_until,
    read_lines,
    refuse_repeats,
    stride,
)
from deltactl.datasets.record import LabelledSet, PaperFigures
from deltactl.errors import ConfigError, DeltactlError
from deltactl.ingest.shards.labels import IGNORED
from deltactl.locations import Location
from deltactl.reading import Limit, parse_json

FPS = 15.0
STEP_SECONDS = 0.2
LABEL_EVERY = 20
CLASSES = 124
NAMES_FILE = "label_num_dic_final.json"
"""The file in the root that maps the names of classes to their stored values, as numbers or as text."""
NAMES = Limit(1_000_000, "the names of classes")
LAYOUT = (
    "the VSPW root, with val.txt, train.txt, data/VIDEO/origin and data/VIDEO/mask "
    "(github.com/VSPW-dataset/VSPW-dataset-download)"
)


def list_clips(
    root: Location,
    *,
    split: Literal["train", "val"] = "val",
    split_file: Location | None = None,
    frames: int = 7,
    frames_per_step: int = 1,
) -> Listing:
    """Return the clips of a split.

    Raises:
        ConfigError: the tree is not VSPW, or its list names what cannot be a video.
    """
    place = split_file or root / f"{split}.txt"
    if not (root / "data").exists():
        raise ConfigError(f"{root} has no folder data; expected {LAYOUT}")
    lines = read_lines(place, f"the list of the videos of the split, one a line, as in {LAYOUT}")
    refuse_repeats(place, lines)
    clips: list[LabelledClip] = []
    unusable: list[Unusable] = []
    for number, video in lines:
        if "/" in video or video in (".", ".."):
            raise ConfigError(f"{place}: line {number} is {video!r}; expected the name of a folder in {root / 'data'}")
        found = _clips_of(root, video, frames, frames_per_step)
        if isinstance(found, str):
            unusable.append(Unusable(f"data/{video}", found, len(clips)))
        else:
            clips += found
    return Listing(tuple(clips), tuple(unusable))


def _clips_of(root: Location, video: str, frames: int, frames_per_step: int) -> list[LabelledClip] | str:
    """Return the clips of one video, or why there are none."""
    folder = f"data/{video}"
    origin = _stems((root / folder / "origin").list(), ".jpg")
    mask = _stems((root / folder / "mask").list(), ".png")
    if not origin or not mask:
        return f"{folder}/{'mask' if origin else 'origin'} holds no {'masks' if origin else 'frames'}"
    stems = sorted(origin | mask)
    step = stride(STEP_SECONDS, FPS)
    clips = []
    for last in range(LABEL_EVERY - 1, len(stems), LABEL_EVERY):
        if last < frames_before(frames, step, frames_per_step):
            continue
        indices = frames_until(last, frames, step, frames_per_step)
        ends = range(frames_per_step - 1, len(indices), frames_per_step)
        labels = tuple(Label(number, (f"{folder}/mask/{stems[indices[number]]}.png",)) for number in ends)
        paths = tuple(f"{folder}/origin/{stems[index]}.jpg" for index in indices)
        clips.append(LabelledClip(f"{video}_{stems[last]}", f"{folder}/origin", paths, indices, labels, video=video))
    return clips


def _stems(names: list[str], suffix: str) -> set[str]:
    paths = (PurePosixPath(name) for name in names if not name.startswith("."))
    return {path.stem for path in paths if path.suffix == suffix}


def class_ids(label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return the class ids, 0 to 123, of a mask, or 255 where it says unlabelled (0) or void (255)."""
    table = np.full(256, IGNORED, np.uint8)
    table[1 : 1 + CLASSES] = np.arange(CLASSES)
    return np.asarray(table[label])


def class_names(root: Location | None) -> tuple[str, ...]:
    """Return the names of the classes by id, as far as they are known.

    Names are for people to read, so a file that is absent or is something else costs them, and nothing more.
    """
    if root is None:
        return ()
    try:
        content = parse_json((root / NAMES_FILE).read_bytes(NAMES))
        values = {int(value): str(name) for name, value in content.items()}
    except (DeltactlError, OSError, ValueError, TypeError, AttributeError):
        return ()
    return tuple(values.get(number + 1, f"class {number}") for number in range(CLASSES))


VSPW = LabelledSet(
    name="vspw",
    title="VSPW",
    split="val",
    listing=list_clips,
    fps=FPS,
    task="segmentation",
    label="mask",
    target=class_ids,
    classes=CLASSES,
    class_names=class_names,
    paper=PaperFigures(
        {
            ("present", "", 1): 58.4,
            ("present", "", 3): 58.4,
            ("deltatok", "", 1): 58.6,
            ("deltatok", "", 3): 58.5,
            ("copy_last", "", 1): 51.2,
            ("copy_last", "", 3): 44.3,
            ("deltaworld", "best", 1): 56.3,
            ("deltaworld", "mean", 1): 54.2,
            ("deltaworld", "best", 3): 51.5,
            ("deltaworld", "mean", 3): 46.6,
        },
        least_clips=343,  # as many videos as val has; most have several clips
    ),
)
