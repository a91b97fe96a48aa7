"""Lightning's loop over batches, without its question to all processes before each batch.

Since 2.6 Lightning asks, before every batch of several processes, whether the first one was told to stop: a copy to the
GPU, a broadcast, and a wait for its answer, and so for all work under way: launches no longer run ahead of the GPU.
`Interrupts` has both signals here, and asks every few seconds.
"""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class EpochLoop(_TrainingEpochLoop):
    """The loop that `take_place` gives to a trainer."""

    @classmethod
    def take_place(cls, trainer: pl.Trainer) -> None:
        """Put it in the place of Lightning's own, with the same first and last step."""
        before = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = cls(trainer, before.min_steps, before.max_steps)

    def _broadcast_sigterm_tensor(self) -> None:
        """Ask nothing."""
