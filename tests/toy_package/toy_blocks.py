"""A set of five classes: a folder for each video, with its frames and a mask of the last one.

ROOT/VIDEO/000.png, 001.png, …
ROOT/VIDEO/mask.png          classes 1 to 5; 0 does not count
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from deltactl.datasets.listing import Label, LabelledClip, Listing
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ConfigError
from deltactl.ingest.shards.labels import IGNORED
from deltactl.locations import Location

NAMES = ("floor", "red", "green", "blue", "sky")
COLOURS = ((120, 110, 100), (220, 50, 40), (40, 160, 70), (50, 90, 220), (150, 200, 240))


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


def strange(label: np.ndarray) -> str | None:
    """Return what is wrong with a mask; None where all is well."""
    return None if label.max() <= len(NAMES) else f"has the value {label.max()}; expected 0 to {len(NAMES)}"


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
    colours=COLOURS,
    check=strange,
)


def make_tree(root: str, videos: int = 6) -> None:
    """Make a small set: videos of a block that moves, nine frames each."""
    for number in range(videos):
        folder = Path(root) / f"video{number}"
        folder.mkdir(parents=True)
        for index in range(9):
            frame = np.full((64, 96, 3), (40, 90, 200), np.uint8)
            frame[16:48, 4 * index + 8 : 4 * index + 40, number % 3] = 250
            cv2.imwrite(str(folder / f"{index:03}.png"), frame)
        mask = np.full((64, 96), 5, np.uint8)
        mask[16:48, 40:72] = 2 + number % 3
        cv2.imwrite(str(folder / "mask.png"), mask)
