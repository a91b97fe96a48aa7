"""Stops a run whose loss is no longer finite, before the checkpoint `last` holds what came of it.

Losses stay on the device until they are looked at: at every step on one CPU, elsewhere every few steps and before
each checkpoint, since looking costs a wait for the GPU. All processes stop together, and name the step and the clips.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from deltactl.errors import TrainingError
from deltactl.progress import few
from deltactl.train.batches import Batch, Batches

LOOK_EVERY, LOOK_EVERY_ON_CPU = 50, 1
KEYS_SHOWN = 8
GOOD = -1


class FiniteGuard(pl.Callback):
    """Remembers the first batch whose loss is not finite, and raises TrainingError when it looks.

    Callbacks that save must come after it, and call `look` before they do.
    """

    def __init__(self, look_every: int = LOOK_EVERY) -> None:
        self._look_every = look_every
        self._first_bad: Tensor | None = None
        self._batches: Batches | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where batches come from, to name their clips."""
        assert isinstance(trainer.train_dataloader, Batches)
        self._batches = trainer.train_dataloader
        self._first_bad = torch.tensor(GOOD, device=pl_module.device)
        if trainer.world_size == 1 and pl_module.device.type == "cpu":
            self._look_every = LOOK_EVERY_ON_CPU

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Note the batch's loss; look now and then."""
        assert self._first_bad is not None
        number = torch.full_like(self._first_bad, self._number(batch))  # made on the device: nothing waits for it
        is_first = ~outputs["loss"].detach().isfinite() & (self._first_bad == GOOD)
        self._first_bad = torch.where(is_first, number, self._first_bad)
        if (batch_idx + 1) % self._look_every == 0:
            self.look(trainer)

    def look(self, trainer: pl.Trainer) -> None:
        """Raise TrainingError where a loss was not finite; every process must call it."""
        assert self._first_bad is not None
        found = trainer.strategy.all_gather(self._first_bad).reshape(-1).tolist()
        for rank, number in enumerate(found):
            if number != GOOD:
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
