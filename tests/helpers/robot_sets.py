"""What the small sets of robots hold: numbered frames of several cameras, actions and states that tell their place.

The LeRobot sets were written by LeRobot's library (`tests/lerobot_sets/write.py`); HDF5 files are written here by h5py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from videos import numbered_frame

FPS = 10
EPISODES = (12, 9, 15, 10)
"""Frames of each episode."""
CAMERAS = ("observation.images.front", "observation.images.wrist")
TASKS = ("pick up the cube", "put the cube on the plate")

SETS = Path(__file__).parents[1] / "lerobot_sets"
SEVERAL, DIVIDED = SETS / "several", SETS / "divided"

HDF5_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
CONTROL_FREQ = 20


def number_of(camera: str, episode: int, frame: int) -> int:
    """Return the number that a frame shows."""
    cameras = CAMERAS if camera in CAMERAS else HDF5_CAMERAS
    return 500 * cameras.index(camera) + 100 * episode + frame


def action_of(episode: int, frame: int) -> np.ndarray:
    """Return the action at a frame, float32 (2,)."""
    return np.array([episode + frame / 64, -frame], np.float32)


def state_of(episode: int, frame: int) -> np.ndarray:
    """Return the state at a frame, float32 (3,)."""
    return np.array([episode, frame, frame * frame / 256], np.float32)


def copy_of(source: Path, to: Path) -> Path:
    """Copy a LeRobot set, to be changed."""
    shutil.copytree(source, to)
    return to


def change_info(root: Path, **changes: Any) -> None:
    """Change values of a LeRobot set's `meta/info.json`; None removes one."""
    place = root / "meta" / "info.json"
    values = json.loads(place.read_text()) | changes
    place.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def change_table(place: Path, change: Any) -> None:
    """Write a parquet file again with what `change` makes of its table, as many row groups as before."""
    from pyarrow import parquet

    with parquet.ParquetFile(place) as file:
        tables = [change(file.read_row_group(number)) for number in range(file.num_row_groups)]
    with parquet.ParquetWriter(place, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def write_hdf5(
    path: Path,
    episodes: Sequence[int] = EPISODES,
    *,
    convention: str | None = "opengl",
    task: str | None = TASKS[0],
    rate: int | None = CONTROL_FREQ,
    masks: Mapping[str, Sequence[int]] | None = None,
    cameras: Sequence[str] = HDF5_CAMERAS,
    compression: str | None = None,
) -> Path:
    """Write demonstrations as LIBERO does (robomimic's layout), pictures from the bottom up for `opengl`."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        settings = {"env_name": "Lift", "env_kwargs": {} if rate is None else {"control_freq": rate}}
        data.attrs["env_args"] = json.dumps(settings)
        if convention is not None:
            data.attrs["macros_image_convention"] = convention
        if task is not None:
            data.attrs["problem_info"] = json.dumps({"language_instruction": task})
        for number, frames in enumerate(episodes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = frames
            demo["actions"] = np.stack([action_of(number, frame) for frame in range(frames)]).astype(np.float64)
            demo["states"] = np.stack([state_of(number, frame) for frame in range(frames)])
            demo["dones"] = np.arange(frames) == frames - 1
            demo["obs/gripper"] = np.arange(frames, dtype=np.int64) + 1000 * number
            for camera in cameras:
                pictures = np.stack([numbered_frame(number_of(camera, number, frame)) for frame in range(frames)])
                stored = pictures[:, ::-1] if convention == "opengl" else pictures
                demo.create_dataset(f"obs/{camera}", data=stored, compression=compression)
        for name, numbers in (masks or {}).items():
            file[f"mask/{name}"] = np.array([f"demo_{number}" for number in numbers], "S")
    return path
