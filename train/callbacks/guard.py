"""Stops a training at the first loss that is not finite, before it reaches `last.ckpt`.

Losses stay on the device until they are checked: after every batch on one CPU, elsewhere every fifty batches and before
each checkpoint, since a check waits for the GPU. All processes stop together, and name the step and the clips.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from deltactl.errors import TrainingError
from deltactl.progress import few
from deltactl.train.data.batches import Batch, Batches

CHECK_EVERY, CHECK_EVERY_ON_CPU = 50, 1
"""Batches between checks."""
KEYS_SHOWN = 8
NONE = -1
"""The number of the first bad batch where there is none."""


class FiniteGuard(pl.Callback):
    """Remembers the first batch whose loss is not finite.

    Callbacks that save come after it, and call `check_losses` before they do.
    """

    def __init__(self, check_every: int = CHECK_EVERY) -> None:
        self._check_every = check_every
        self._first_bad: Tensor | None = None
        self._batches: Batches | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where batches come from, to name their clips."""
        assert isinstance(trainer.train_dataloader, Batches)
        self._batches = trainer.train_dataloader
        self._first_bad = torch.tensor(NONE, device=pl_module.device)
        if trainer.world_size == 1 and pl_module.device.type == "cpu":
            self._check_every = CHECK_EVERY_ON_CPU

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Note the batch's loss; check now and then."""
        assert self._first_bad is not None
        number = torch.full_like(self._first_bad, self._number(batch))  # made on the device: nothing waits for it
        is_first = ~outputs["loss"].detach().isfinite() & (self._first_bad == NONE)
        self._first_bad = torch.where(is_first, number, self._first_bad)
        if (batch_idx + 1) % self._check_every == 0:
            self.check_losses(trainer)

    def check_losses(self, trainer: pl.Trainer) -> None:
        """Check the losses so far; every process must call it after the same batch.

        Raises:
            TrainingError: one was not finite.
        """
        assert self._first_bad is not None
        found = trainer.strategy.all_gather(self._first_bad).reshape(-1).tolist()
        for rank, number in enumerate(found):
            if number != NONE:
                raise TrainingError(self._message(rank, number))

    def _number(self, batch: Batch) -> int:
        """Return the number of the batch among those of its process; a step has `accumulate` of them."""
        assert self._batches is not None
        plan = self._batches.plan
        return int(batch.places[0]) // plan.batch // plan.devices

    def _message(self, rank: int, number: int) -> str:
        assert self._batches is not None
        plan = self._batches.plan
        step, turn = divmod(number, plan.accumulate)
        keys = self._batches.source.keys(plan.places(step, turn, rank))
        shown = few(keys, KEYS_SHOWN)
        return (
            f"the loss is not finite at step {step:,}, on the clips {shown}; the checkpoint `last` is from before it. "
            "Look at those clips (deltactl verify), or go on from `last` with a lower lr"
        )
