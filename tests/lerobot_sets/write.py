"""Writes the small LeRobot sets that lie beside this file, with LeRobot's own library (lerobot 0.4.4).

    python tests/lerobot_sets/write.py FOLDER

The library is not needed to test: the sets are kept. `several` has all its episodes in one file of each kind, as most
sets do; `divided` has video and parquet files of one or two episodes each, as large sets do. Every frame shows its
number (`videos.numbered_frame`), which tells camera, episode and place: see `number_of`.

It needs torchvision to import, which is not used here.
"""

from __future__ import annotations

import importlib.machinery
import shutil
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from robot_sets import CAMERAS, EPISODES, FPS, TASKS, action_of, number_of, state_of
from videos import HEIGHT, WIDTH, numbered_frame

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["left", "right"]},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    **{
        camera: {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
        for camera in CAMERAS
    },
}


def stand_in(*names: str) -> None:
    """Put empty modules in the place of those that are imported and not used."""
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    sys.modules["torchvision.transforms"].ToTensor = object
    sys.modules["torchvision.transforms.v2"].Transform = object


def write(root: Path, vcodec: str, video_files_size_in_mb: float | None) -> None:
    """Write one set."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        "deltactl/numbered", FPS, FEATURES, root=root, robot_type="none", use_videos=True, vcodec=vcodec
    )
    if video_files_size_in_mb is not None:
        dataset.meta.update_chunk_settings(
            data_files_size_in_mb=video_files_size_in_mb / 4, video_files_size_in_mb=video_files_size_in_mb
        )
    for episode, frames in enumerate(EPISODES):
        for frame in range(frames):
            pictures = {camera: numbered_frame(number_of(camera, episode, frame)) for camera in CAMERAS}
            values = {
                "action": action_of(episode, frame),
                "observation.state": state_of(episode, frame),
                "next.done": np.array([frame == frames - 1]),
                "task": TASKS[episode % len(TASKS)],
            }
            dataset.add_frame({**values, **pictures})
        dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)


if __name__ == "__main__":
    stand_in(
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.v2",
        "torchvision.transforms.v2.functional",
    )
    folder = Path(sys.argv[1])
    write(folder / "several", "libsvtav1", None)
    write(folder / "divided", "h264", 0.012)
