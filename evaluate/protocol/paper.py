"""The paper's numbers, to print beside one's own, and in what an evaluation is not the paper's.

DeltaTok and DeltaWorld (arXiv 2604.04913, CVPR 2026): ViT-B features at 512 px, weights trained on Kinetics-700, the
last frame of each horizon, 20 samples. mIoU in percent (VSPW, Cityscapes), RMSE in metres (KITTI).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deltactl.configs.evaluate import CLIP_FRAMES
from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.known import labelled_set
from deltactl.progress import counted

SIZE_PX = 512
SAMPLES = 20
CONTEXT = 4
BACKBONE_FAMILY, BACKBONE_WIDTH = "dinov3", 768


def paper_value(dataset: str, method: str, select: str, horizon: int) -> float | None:
    """Return the paper's number of a row's last step, or None where it has none."""
    paper = labelled_set(dataset).paper
    return None if paper is None else paper.values.get((method, select, horizon))


@dataclass(frozen=True)
class ComparedSettings:
    """What of an evaluation decides whether its numbers can stand beside the paper's."""

    dataset: str
    size: FrameSize
    context: int
    samples: int
    encoding: str
    clips: int
    quarantined: int
    """Clips that could not be used."""
    backbone_width: int
    networks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each network that was given, in what it is not the paper's."""
    backbone_family: str = BACKBONE_FAMILY
    backbone_choice: str = ""
    """Which of its layers, and whether normed, where these are not the usual ones."""
    frames: int = CLIP_FRAMES
    """In a clip; they decide which labelled frames have a clip before them."""

    def departures(self) -> list[str]:
        """Return one phrase for each thing in which this is not the paper's evaluation; none where it can compare."""
        record = labelled_set(self.dataset)
        paper = record.paper
        if paper is None:
            return [f"{record.title} is not in the paper"]
        found = []
        if self.clips < paper.least_clips:
            whole = f"at least {paper.least_clips:,}"
            found.append(f"{counted(self.clips, 'clips')}, where {record.title} has {whole}")
        if self.quarantined:
            found.append(f"{counted(self.quarantined, 'clips')} could not be used")
        if "head" not in self.networks:
            found.append("no head, so there are no values of the metric")
        if not self.size.square:
            found.append(f"whole frames at {self.size} px (published: square crops of {SIZE_PX} px)")
        elif self.size.height != SIZE_PX:
            found.append(f"{counted(self.size.height, 'px')} (published: {SIZE_PX})")
        for name, value, published in (
            ("frames in a clip", self.frames, CLIP_FRAMES),
            ("frames of context", self.context, CONTEXT),
            ("samples", self.samples, SAMPLES),
        ):
            if value != published:
                found.append(f"{counted(value, name)} (published: {published})")
        if self.encoding != "sequential":
            found.append(f"{self.encoding} encoding (published: sequential)")
        if self.backbone_width != BACKBONE_WIDTH:
            found.append(f"features of width {self.backbone_width} (published: {BACKBONE_WIDTH}, of DINOv3 ViT-B)")
        if self.backbone_family != BACKBONE_FAMILY:
            found.append(f"a backbone of the family {self.backbone_family} (published: {BACKBONE_FAMILY})")
        if self.backbone_choice:
            found.append(f"features of {self.backbone_choice} (published: the last layer, normed)")
        for name, differences in self.networks.items():
            if differences:
                found.append(f"another {name}: {', '.join(differences)}")
        return found
