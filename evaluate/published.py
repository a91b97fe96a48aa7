"""The numbers that were published, to print beside one's own.

DeltaTok and DeltaWorld (arXiv 2604.04913, CVPR 2026): ViT-B features at 512 px, weights trained on Kinetics-700, the
last frame of each horizon, 20 samples. mIoU in percent (VSPW, Cityscapes), RMSE in metres (KITTI).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deltactl.progress import counted

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


LEAST_CLIPS = {"vspw": 343, "cityscapes": 500, "kitti": 600}
"""Fewer clips than this are not the whole set: Cityscapes has 500, VSPW as many videos, KITTI's split 652 at most."""
SET_NAMES = {"vspw": "VSPW", "cityscapes": "Cityscapes", "kitti": "KITTI"}
BACKBONE_WIDTH = 768


@dataclass(frozen=True)
class Protocol:
    """What of an evaluation decides whether its numbers can stand beside the paper's."""

    dataset: str
    size: int
    context: int
    samples: int
    encoding: str
    clips: int
    quarantined: int
    """Clips that could not be used."""
    backbone_width: int
    networks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name to what of it is not as published, for each network that was given."""

    def departures(self) -> list[str]:
        """Return one phrase for each thing in which this is not the published evaluation; none where it can compare."""
        found = []
        if self.clips < LEAST_CLIPS[self.dataset]:
            whole = f"at least {LEAST_CLIPS[self.dataset]:,}"
            found.append(f"{counted(self.clips, 'clips')}, where {SET_NAMES[self.dataset]} has {whole}")
        if self.quarantined:
            found.append(f"{counted(self.quarantined, 'clips')} could not be used")
        if "head" not in self.networks:
            found.append("no head, so there are no values of the metric")
        for name, value, published in (
            ("px", self.size, SIZE_PX),
            ("frames of context", self.context, CONTEXT),
            ("samples", self.samples, SAMPLES),
        ):
            if value != published:
                found.append(f"{counted(value, name)} (published: {published})")
        if self.encoding != "sequential":
            found.append(f"{self.encoding} encoding (published: sequential)")
        if self.backbone_width != BACKBONE_WIDTH:
            found.append(f"features of width {self.backbone_width} (published: {BACKBONE_WIDTH}, of DINOv3 ViT-B)")
        for name, differences in self.networks.items():
            if differences:
                found.append(f"another {name}: {', '.join(differences)}")
        return found
