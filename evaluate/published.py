"""The numbers that were published, to print beside one's own.

DeltaTok and DeltaWorld (arXiv 2604.04913, CVPR 2026): ViT-B features at 512 px, weights trained on Kinetics-700, the
last frame of each horizon, 20 samples. mIoU in percent (VSPW, Cityscapes), RMSE in metres (KITTI).
"""

from __future__ import annotations

SIZE_PX = 512
SAMPLES = 20
CONTEXT = 4

DATASETS = ("vspw", "cityscapes", "kitti")

# (method, select, horizon) → the three sets, in the order of DATASETS. `present` does not depend on the horizon.
_VALUES = {
    ("present", "", 1): (58.4, 70.5, 2.79),
    ("present", "", 3): (58.4, 70.5, 2.79),
    ("deltatok", "", 1): (58.6, 69.6, 2.78),
    ("deltatok", "", 3): (58.5, 67.9, 2.86),
    ("copy_last", "", 1): (51.2, 53.5, 3.76),
    ("copy_last", "", 3): (44.3, 39.6, 4.86),
    ("deltaworld", "best", 1): (56.3, 66.2, 2.95),
    ("deltaworld", "mean", 1): (54.2, 64.2, 3.32),
    ("deltaworld", "best", 3): (51.5, 55.3, 3.71),
    ("deltaworld", "mean", 3): (46.6, 49.5, 4.74),
}


def published_value(dataset: str, method: str, select: str, horizon: int) -> float | None:
    """Return the published number of a row's last step, or None where none was published."""
    values = _VALUES.get((method, select, horizon))
    return None if values is None else values[DATASETS.index(dataset)]


def comparable(*, size: int, samples: int, context: int) -> bool:
    """Return whether an evaluation follows the published protocol in these settings."""
    return (size, samples, context) == (SIZE_PX, SAMPLES, CONTEXT)
