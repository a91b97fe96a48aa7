"""Videos with columns beside them, for tests of what clips carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from videos import make_video

FRAMES = 20


def beside(video: Path, **arrays: object) -> Path:
    """Write the columns of a video, names with `__` for the dot, and return their file."""
    place = video.with_suffix(".columns.npz")
    np.savez(place, **{name.replace("__", "."): np.asarray(values) for name, values in arrays.items()})
    return place


def states(seed: int, rows: int = FRAMES) -> dict[str, np.ndarray]:
    """Return columns of every kind for so many frames."""
    draw = np.random.default_rng(seed)
    return {
        "actions": draw.normal(size=(rows, 7)).astype(np.float32),
        "number": np.arange(rows, dtype=np.int64) + 2**53 + 1,
        "gripper": draw.integers(0, 2, rows).astype(bool),
        "pose": draw.normal(size=(rows, 2, 3)),
        "clip__text": np.array(f"put the cup {seed} down"),
        "clip__camera": draw.normal(size=(3, 3)).astype(np.float16),
    }


def make_robots(folder: Path, names: str = "abc") -> Path:
    """Write videos with columns of every kind into a folder, and return it."""
    for number, name in enumerate(names):
        make_video(folder / f"{name}.mp4", frames=FRAMES)
        beside(folder / f"{name}.mp4", **states(number))
    return folder
