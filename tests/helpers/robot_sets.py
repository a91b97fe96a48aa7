"""What the small sets of robots hold: numbered frames of several cameras, actions and states that tell their place."""

from __future__ import annotations

import numpy as np

FPS = 10
EPISODES = (12, 9, 15, 10)
"""Frames of each episode."""
CAMERAS = ("observation.images.front", "observation.images.wrist")
TASKS = ("pick up the cube", "put the cube on the plate")


def number_of(camera: str, episode: int, frame: int) -> int:
    """Return the number that a frame shows."""
    return 500 * CAMERAS.index(camera) + 100 * episode + frame


def action_of(episode: int, frame: int) -> np.ndarray:
    """Return the action at a frame, float32 (2,)."""
    return np.array([episode + frame / 64, -frame], np.float32)


def state_of(episode: int, frame: int) -> np.ndarray:
    """Return the state at a frame, float32 (3,)."""
    return np.array([episode, frame, frame * frame / 256], np.float32)
