"""The evaluation protocol over the tiny trees: from their files to the reference's numbers.

Clips, crops, labels, the mapping of a head's output and the metrics are the project's; nothing is read from a cache.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import labelled_set
from deltactl.evaluate.protocol.head_output import fit_to_label
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.ingest.evaluation import plan_evaluation
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.shards.geometry import cut, square_crops
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.ingest.shards.labels import split_target
from deltactl.ingest.units import UnitLog
from deltactl.tasks.depth import DepthErrors
from deltactl.tasks.segmentation import ClassOverlaps
from deltactl.train.networks.heads import DepthHead, LinearHeadConfig, SegmentationHead

SIZE, CONTEXT, FRAMES = 64, 4, 7
ROOTS = {"vspw": "VSPW", "cityscapes": "cityscapes", "kitti": "kitti"}


@dataclass
class Example:
    """One clip: features of its crops, and for each labelled frame the part of the target of each crop."""

    features: list[Tensor]
    frame_size: tuple[int, int]
    targets: dict[int, list[Tensor]] = field(default_factory=dict)


def examples(dataset: str, trees: Path, backbone: Backbone) -> list[Example]:
    split_file = str(trees / "kitti" / "eigen_test.txt") if dataset == "kitti" else None
    config = IngestConfig(dataset=dataset, source=str(trees / ROOTS[dataset]), size=SIZE, split_file=split_file)
    plan, log = plan_evaluation(resolved(config)), UnitLog()
    clips = [clip for unit in plan.units for clip in plan.maker.clips(unit, log)]
    assert not log.quarantined
    assert len(clips) == plan.clips
    return [example(dataset, clip, backbone) for clip in clips]


def example(dataset: str, clip: Clip, backbone: Backbone) -> Example:
    frames = np.stack([decode_frame(frame) for frame in clip.frames])
    height, width = frames.shape[1:3]
    crops = [np.stack([cut(frame, box) for frame in frames]) for box in square_crops(height, width)]
    features = [backbone(torch.from_numpy(crop).permute(0, 3, 1, 2).contiguous()) for crop in crops]
    result = Example(features, (height, width))
    for number, label in clip.labels.items():
        target = labelled_set(dataset).target(decode_label(label))
        result.targets[number] = [torch.from_numpy(part.copy()) for part in split_target(target, (height, width))]
    return result


def score(dataset: str, head: torch.nn.Module, batch: list[Example], frame: int, source: int) -> float | None:
    """The metric of frame number `frame`, predicted by the features of frame number `source`."""
    matrix, errors = ClassOverlaps.empty(labelled_set(dataset).classes or 1), DepthErrors()
    for each in batch:
        for crop, target in enumerate(each.targets.get(frame, [])):
            patches = each.features[crop][source]
            side = SIZE // 16
            grid = patches.T.reshape(1, -1, side, side)
            output = fit_to_label(head(grid), tuple(target.shape), each.frame_size, crop)
            if dataset == "kitti":
                errors += DepthErrors.of(output, target[None])
            else:
                matrix += ClassOverlaps.of(output, target[None])
    return (errors if dataset == "kitti" else matrix).value()


def copy_loss(batch: list[Example], frame: int, source: int) -> float:
    """The feature loss of copying `source`: each clip counts once, whether it has one crop or two."""
    return fmean(
        fmean(F.smooth_l1_loss(features[source], features[frame], beta=0.1).item() for features in each.features)
        for each in batch
    )


def load_head(dataset: str, golden: Path, dim: int) -> torch.nn.Module:
    outputs = 256 if dataset == "kitti" else labelled_set(dataset).classes
    head = (DepthHead if dataset == "kitti" else SegmentationHead)(LinearHeadConfig(dim, outputs))
    head.load_state_dict(torch.load(golden / f"head_{dataset}.bin", weights_only=True))
    return head.eval()


@pytest.mark.parametrize("dataset", ["vspw", "cityscapes", "kitti"])
def test_present_and_copy_last_are_the_reference_numbers(dataset: str, trees: Path, golden: Path) -> None:
    reference = json.loads((golden / "eval.json").read_text())
    backbone = Backbone.load(golden / "backbone", device="cpu")
    head = load_head(dataset, golden, backbone.dim)
    metric = "depth_rmse" if dataset == "kitti" else "seg_miou"
    with torch.inference_mode():
        batch = examples(dataset, trees, backbone)
        for horizon, step in ((1, 0), (3, 0), (3, 1), (3, 2)):
            frame, last = FRAMES - horizon + step, FRAMES - horizon - 1
            at = f"h{horizon}_t{step}"
            for name, source in (
                (f"present/metrics/val_{dataset}_c1_{at}_{metric}", frame),
                (f"copy_last/metrics/val_{dataset}_c{CONTEXT}_{at}_{metric}_mean", last),
            ):
                method, _, key = name.partition("/")
                wanted, found = reference[method].get(key), score(dataset, head, batch, frame, source)
                if wanted is None:  # Cityscapes labels the last frame only
                    assert found is None, name
                elif dataset == "kitti":
                    assert found == pytest.approx(wanted, rel=5e-4), name
                else:
                    assert found == pytest.approx(100 * wanted, abs=0.02), name
            wanted = reference["copy_last"][f"losses/val_{dataset}_c{CONTEXT}_{at}_mean"]
            assert copy_loss(batch, frame, last) == pytest.approx(wanted, rel=5e-4), at
