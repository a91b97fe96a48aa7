"""A set of five classes: a folder for each video, with its frames and a mask of the last one.

ROOT/VIDEO/000.png, 001.png, …
ROOT/VIDEO/mask.png          classes 1 to 5; 0 does not count
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from deltactl.datasets.listing import Label, LabelledClip, Listing
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ConfigError
from deltactl.ingest.shards.labels import IGNORED
from deltactl.locations import Location

NAMES = ("floor", "red", "green", "blue", "sky")


def list_clips(
    root: Location,
    *,
    split: Literal["train", "val"],  # the toy has one split
    split_file: Location | None,
    frames: int,
) -> Listing:
    """Return one clip for each video: its last frames."""
    clips = []
    for video in root.list():
        names = sorted(name for name in (root / video).list() if name[:-4].isdecimal())
        if len(names) < frames:
            continue
        first = len(names) - frames
        clips.append(
            LabelledClip(
                key=f"{video}_{len(names) - 1}",
                source=video,
                frames=tuple(f"{video}/{name}" for name in names[first:]),
                indices=tuple(range(first, len(names))),
                labels=(Label(frames - 1, (f"{video}/mask.png",)),),
            )
        )
    if not clips:
        raise ConfigError(f"{root} has no folder with {frames} frames")
    return Listing(tuple(clips))


def class_ids(label: np.ndarray) -> np.ndarray:
    """Return the ids of the classes, from 0."""
    table = np.full(256, IGNORED, np.uint8)
    table[1 : len(NAMES) + 1] = np.arange(len(NAMES))
    return table[label]


BLOCKS = LabelledSet(
    name="blocks",
    title="Blocks",
    split="val",
    listing=list_clips,
    fps=10.0,
    task="segmentation",
    label="mask",
    target=class_ids,
    classes=len(NAMES),
    class_names=lambda root: NAMES,
)
