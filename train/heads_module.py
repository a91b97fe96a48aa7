"""The losses of the heads, and the Lightning module of a head that trains on frozen features.

Classes: cross-entropy, 255 ignored. Depth: the scale-invariant log loss of Eigen et al. (NeurIPS 2014) with λ = 0.5,
for each image over its pixels with a depth. Head outputs are resized bilinearly to the labels' points.

Shapes: B batch · C outputs · y × x points of a label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from deltactl.ingest.labels import IGNORED
from deltactl.train.batches import Batch
from deltactl.train.modules import Sums, TrainingModule

SCALE_INVARIANCE = 0.5


class HeadModule(TrainingModule):
    """A segmentation or depth head: labels in whole numbers are class ids, those in floating point metres."""

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss over the points that count."""
        output = self._output(batch)
        assert batch.labels is not None
        if batch.labels.is_floating_point():
            return scale_invariant_log(output[:, 0], batch.labels)
        return class_loss(output, batch.labels)

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, and the share of right pixels or the error in metres."""
        output = self._output(batch)
        assert batch.labels is not None
        if batch.labels.is_floating_point():
            counts = batch.labels > 0
            squared = ((output[:, 0] - batch.labels) ** 2 * counts).sum() / counts.sum().clamp(min=1)
            return {"loss": scale_invariant_log(output[:, 0], batch.labels), "rmse": squared.sqrt()}
        counts = batch.labels != IGNORED
        right = (output.argmax(1) == batch.labels) & counts
        return {"loss": class_loss(output, batch.labels), "accuracy": right.sum() / counts.sum().clamp(min=1)}

    def _output(self, batch: Batch) -> Float32[Tensor, "B C y x"]:
        assert batch.grid is not None
        assert batch.labels is not None
        features = batch.data[:, 0].float().mT.unflatten(-1, batch.grid)
        size = (int(batch.labels.shape[1]), int(batch.labels.shape[2]))
        return F.interpolate(self.network(features).float(), size=size, mode="bilinear", align_corners=False)


def class_loss(logits: Float32[Tensor, "B C y x"], labels: UInt8[Tensor, "B y x"]) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy over the points that count; 0 where none does."""
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def scale_invariant_log(predicted: Float32[Tensor, "B y x"], depth: Float32[Tensor, "B y x"]) -> Float32[Tensor, ""]:
    """Return mean(d²) − λ mean(d)², d = log predicted − log depth, over each image's points with a depth."""
    counts = depth > 0
    number = counts.sum(dim=(1, 2)).clamp(min=1)
    difference = torch.where(counts, predicted.log() - depth.where(counts, torch.ones_like(depth)).log(), 0.0)
    mean = difference.sum(dim=(1, 2)) / number
    mean_square = (difference**2).sum(dim=(1, 2)) / number
    return (mean_square - SCALE_INVARIANCE * mean**2).mean()
