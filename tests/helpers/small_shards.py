"""Small real shards for tests: clips of smooth noise as JPEGs (training video) or PNGs (an evaluation set)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from deltactl.artifacts import Identity, open_artifact
from deltactl.ingest.shards.format import Clip, ClipMeta, ShardSet, finish, write_shard
from deltactl.locations import Location


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return uint8 RGB that JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image: np.ndarray, frame_format: str = "jpg") -> bytes:
    """Return the image file of RGB pixels."""
    done, data = cv2.imencode(f".{frame_format}", image[:, :, ::-1])
    assert done
    return data.tobytes()


def make_clip(
    key: str, *, frames: int = 3, height: int = 80, width: int = 112, frame_format: Literal["jpg", "png"] = "jpg"
) -> Clip:
    """Return a clip whose pixels depend on its key."""
    seed = sum(ord(letter) * 31**place for place, letter in enumerate(key)) % 2**31
    images = [picture(height, width, seed + number) for number in range(frames)]
    times = tuple(10.0 + 0.25 * number for number in range(frames))
    meta = ClipMeta(f"{key}.mp4", "kinetics", times, tuple(range(frames)), (height, width), "pyav")
    return Clip(key, meta, [encode(image, frame_format) for image in images], frame_format, source_name=f"{key}.mp4")


def write_shards(
    root: Path, units: Sequence[Sequence[Clip]], *, dataset: str = "kinetics", size: int = 64, frames: int = 3
) -> ShardSet:
    """Write a finished set of shards, one for each list of clips."""
    place = Location.of(root)
    open_artifact(place, Identity("shards", {"dataset": dataset, "frames": frames, "size": size}), {"made_by": "tests"})
    for number, clips in enumerate(units):
        write_shard(place, f"{number:06d}", clips, [], {})
    finish(place)
    return ShardSet.open(place)


def training_shards(root: Path, units: int = 2, clips: int = 3) -> ShardSet:
    """Write JPEG shards of training video, 80 × 112 pixels."""
    return write_shards(
        root, [[make_clip(f"class/video{unit}-{clip}") for clip in range(clips)] for unit in range(units)]
    )


def evaluation_shards(root: Path, size: int = 64) -> ShardSet:
    """Write lossless shards of an evaluation set: a wide, a square and a tall clip, then a wide one."""
    shapes = [("wide", size, 96), ("square", size, size), ("tall", 112, size)]
    first = [make_clip(key, height=height, width=width, frame_format="png") for key, height, width in shapes]
    second = [make_clip("last", height=size, width=96, frame_format="png")]
    return write_shards(root, [first, second], dataset="vspw", size=size)
