"""How far a training is: a bar, or plain lines, of the steps and the loss."""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from deltactl.progress import Progress
from deltactl.train.callbacks.metrics import Metrics
from deltactl.train.data.batches import Batch


class ShowProgress(pl.Callback):
    """A bar, or plain lines, of the steps and the loss."""

    def __init__(self, steps: int, metrics: Metrics) -> None:
        self._steps = steps
        self._metrics = metrics
        self._progress: Progress | None = None
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the steps that are left."""
        if trainer.is_global_zero:
            self._seen = trainer.global_step
            self._progress = Progress(self._steps - self._seen, unit="steps", label="train", note=self._loss)
            self._progress.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count a step."""
        if self._progress is not None and trainer.global_step > self._seen:
            self._progress.advance(trainer.global_step - self._seen)
            self._seen = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the bar as it is."""
        self._end()

    def _loss(self) -> str:
        loss = self._metrics.running_loss()
        return "" if loss is None else f"loss {loss:.4g}"

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
