"""The Lightning module of a head that trains on frozen features. Its task says what it learns (`tasks`).

Head outputs are resized bilinearly to the labels' points.

Shapes: B batch · C outputs · y × x points of a label.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from deltactl.tasks.record import Task
from deltactl.train.batches import Batch
from deltactl.train.frozen import Frozen
from deltactl.train.modules import Sums, TrainingModule
from deltactl.train.optimization import OptimiserSettings


class HeadModule(TrainingModule):
    """A head and its task."""

    def __init__(self, task: Task, network: nn.Module, settings: OptimiserSettings, frozen: Frozen, seed: int) -> None:
        super().__init__(network, settings, frozen, seed)
        self.task = task

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss over the points that count."""
        assert batch.labels is not None
        return self.task.loss(self._output(batch), batch.labels)

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, and what the task shows beside it."""
        assert batch.labels is not None
        output = self._output(batch)
        return {"loss": self.task.loss(output, batch.labels), **self.task.figures(output, batch.labels)}

    def _output(self, batch: Batch) -> Float32[Tensor, "B C y x"]:
        assert batch.grid is not None
        assert batch.labels is not None
        features = batch.data[:, 0].float().mT.unflatten(-1, batch.grid)
        size = (int(batch.labels.shape[1]), int(batch.labels.shape[2]))
        return F.interpolate(self.network(features).float(), size=size, mode="bilinear", align_corners=False)
