"""Colours for videos of flat columns, as the samples that stand for them, and read back from pictures."""

from __future__ import annotations

import numpy as np

from deltactl.ingest.video.colours import Colours

VIVID = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 210], [230, 210, 40], [60, 200, 210], [200, 50, 190]])
GREYS = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [200, 30, 60]])


def samples_of(rgb: np.ndarray, meant: Colours) -> np.ndarray:
    """Return the Y, Cb and Cr that stand for RGB, as 8-bit levels."""
    matrix = meant.rgb_of_samples
    return np.clip(np.rint((rgb - matrix[:, 3]) @ np.linalg.inv(matrix[:, :3]).T), 0, 255).astype(np.uint8)


def columns(image: np.ndarray) -> np.ndarray:
    """Return the colours of a flat video's columns, away from their edges."""
    middle = image[20:76].reshape(56, -1, 32, 3)[:, :, 10:22]
    assert (middle.max((0, 2)) - middle.min((0, 2))).max() <= 1
    return middle.mean((0, 2))
