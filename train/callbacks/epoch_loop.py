"""The loop over batches: Lightning's own, with steps in place of batches as what a run is counted in.

Lightning counts batches, of which a step has as many as settings and devices make it; a run goes on with others. So
here validations come by the number of the step, and a checkpoint gives back the number of steps and nothing else:
batches are counted from 0 in every start.

Lightning has no argument or hook for any of this. Its loops are classes to derive from, and `trainer.fit_loop` takes
another `epoch_loop`; the methods below are all that depends on how they are made. `tests/train/test_interrupts.py` and
`tests/train/test_resume.py` fail where a release of Lightning changes them.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class EpochLoop(_TrainingEpochLoop):
    """Validates every so many steps and after the last one, but not at a step where the run is stopped."""

    def __init__(self, trainer: pl.Trainer, max_steps: int, validate_every: int, *, validate_first: bool) -> None:
        """`validate_first`: the step that the run goes on from has not been validated; where it is due, do it first."""
        super().__init__(trainer, max_steps=max_steps)
        self._validate_every = validate_every
        self._validate_first = validate_first

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Take the number of steps from a checkpoint."""
        self.automatic_optimization.load_state_dict(state_dict, f"{prefix}automatic_optimization.")

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Begin with the validation that is still to come."""
        super().on_run_start(data_fetcher)
        self.restarting = False  # nothing but the steps was restored
        if self._validate_first:
            self.on_advance_end(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:  # noqa: ARG002 (the signature is Lightning's)
        """Return whether to validate after this batch."""
        due = self.global_step % self._validate_every == 0 or self.global_step >= self.max_steps
        # Lightning would validate before it stops, for which there may be no time; the resumed run does.
        return due and not self._should_accumulate() and not self.trainer.should_stop and self._should_check_val_epoch()

    def _broadcast_sigterm_tensor(self) -> None:
        """Ask nothing.

        Since 2.6 Lightning asks, before every batch of several processes, whether the first one got SIGTERM: a copy to
        the GPU, a broadcast and a wait for its answer, and so for all work under way. `Interrupts` handles the signals,
        and asks every few seconds.
        """
