"""Small data sets in several layouts, each with a file that tells of it: two videos of a square that moves."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from deltactl.configs.yaml_text import write_value
from deltactl.datasets.told import ToldSet, told_set

HEIGHT, WIDTH = 64, 96
FRAMES = 16
FPS = 10
VIDEOS = ("a_1", "a_2", "b_1")

COMMON: Mapping[str, Any] = {"fps": FPS, "step_seconds": 0.1, "splits": {"train": {"videos": ["a_*"]}}}
CLASSES: Mapping[str, Any] = {
    "task": "segmentation",
    "classes": ["ground", "block"],
    "colours": {"block": [255, 0, 0], "ground": [0, 0, 255]},
}


def frame(number: int) -> np.ndarray:
    """Return a picture, BGR: a bright square on blue ground, a little farther to the right in every frame."""
    picture = np.full((HEIGHT, WIDTH, 3), (200, 90, 40), np.uint8)
    picture[16:48, 2 * number : 2 * number + 32] = 250
    return picture


def mask(number: int) -> np.ndarray:
    """Return the class of each pixel of that picture: 1 in the square."""
    return (frame(number)[..., 2] == 250).astype(np.uint8)


def depth(number: int) -> np.ndarray:
    """Return the millimetres of each pixel: 2 m in the square, 8 m elsewhere, none in the first row."""
    metres = np.where(mask(number) == 1, 2000, 8000).astype(np.uint16)
    metres[0] = 0
    return metres


def write(path: Path, picture: np.ndarray) -> None:
    """Write a PNG, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def tell(folder: Path, **values: Any) -> Path:
    """Write the file that tells of a set, beside its data; a value of None is left out."""
    told = {"name": "blocks-told", **COMMON, **values}
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "set.yaml"
    place.write_text("".join(f"{key}: {_flow(value)}\n" for key, value in told.items() if value is not None))
    return place


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    return str(write_value(value))


def of(place: Path) -> ToldSet:
    """Return the record of a file."""
    return told_set(str(place))


def folders(root: Path, **values: Any) -> Path:
    """Make folders of PNG with masks of every fifth frame; return the file."""
    for video in VIDEOS:
        for number in range(FRAMES):
            write(root / "frames" / video / f"{number:04}.png", frame(number))
            if number % 5 == 4:
                write(root / "masks" / video / f"{number:04}.png", mask(number))
    patterns = {"frames": "frames/{video}/{frame}.png", "labels": "masks/{video}/{frame}.png"}
    splits = {"train": {"videos": ["a_*"]}, "val": {"videos": ["*"]}}
    return tell(root, **{**patterns, "splits": splits, **CLASSES, **values})


def video_files(root: Path, **values: Any) -> Path:
    """Make videos, and masks of every fifth frame, whose names count from 1; a list names the split."""
    for video in VIDEOS:
        path = root / "videos" / f"{video}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "4", "g": "5"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.time_base = Fraction(1, FPS)
            for number in range(FRAMES):
                picture = av.VideoFrame.from_ndarray(frame(number), format="bgr24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        for number in range(4, FRAMES, 5):
            write(root / "labels" / f"{video}-{number + 1:03}.png", mask(number))
    (root / "val.txt").write_text("a_1\nb_1\n")
    patterns = {"videos": "videos/{video}.mp4", "labels": "labels/{video}-{frame}.png", "first_number": 1}
    return tell(root, **{**patterns, "splits": {"val": {"file": "val.txt"}}, **CLASSES, **values})


def depths(root: Path, **values: Any) -> Path:
    """Make frames with depth of 16 bits for each of them, the split in the folders; return the file."""
    for split, videos in (("train", VIDEOS[:2]), ("val", VIDEOS[2:])):
        for video in videos:
            for number in range(FRAMES):
                write(root / split / "rgb" / f"{video}_{number:04}.png", frame(number))
                write(root / split / "depth" / f"{video}_{number:04}.png", depth(number))
    patterns = {"frames": "{split}/rgb/{video}_{frame}.png", "labels": "{split}/depth/{video}_{frame}.png"}
    more = {"labelled": "all", "clip_every": 5, "clip_first": 7, "splits": None}
    return tell(root, **{**patterns, **more, "task": "depth", "depth_scale": 1000, "depth_range": [0.5, 9], **values})
