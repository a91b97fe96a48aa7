"""Lightning's loop over batches, without its question to all processes before each batch, and with a last validation.

Since 2.6 Lightning asks, before every batch of several processes, whether the first one was told to stop: a copy to the
GPU, a broadcast, and a wait for its answer, and so for all work under way: launches no longer run ahead of the GPU.
`Interrupts` has both signals here, and asks every few seconds.

Left to itself it validates every so many steps only, so that the end of a run may have none.
"""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class EpochLoop(_TrainingEpochLoop):
    """The loop that `take_place` gives to a trainer."""

    @classmethod
    def take_place(cls, trainer: pl.Trainer) -> None:
        """Put it in the place of Lightning's own, with the same first and last step."""
        before = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = cls(trainer, before.min_steps, before.max_steps)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Return whether to validate after this batch: where Lightning would, and after the last step."""
        if super()._should_check_val_fx(data_fetcher):
            return True
        at_end = self.global_step >= self.max_steps and not self._should_accumulate()
        return at_end and self._should_check_val_epoch()

    def _broadcast_sigterm_tensor(self) -> None:
        """Ask nothing."""
