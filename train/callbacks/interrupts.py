"""Ctrl-C, SIGTERM and the time limit of a start: the step under way ends, `last` is written, and the run can go on.

Lightning's own handling of signals would save in mid-step, or leave a stale `last`; its `Timer` counts the starts
before this one, so that the next would end at once. A second Ctrl-C stops at once.
"""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from deltactl.errors import StoppedError
from deltactl.train.callbacks.agreement import ASK_EVERY, summed
from deltactl.train.callbacks.checkpointing import Checkpoints
from deltactl.train.data.batches import Batch

ASK_SECONDS = 5.0
"""About the most between exchanges of several processes about whether one of them was told to stop, where the steps of
`ASK_EVERY` would take longer: torchrun gives them 30 s."""


class Interrupts(pl.Callback):
    """Stops the run at the end of a step once a signal came or its time is up; comes after `Checkpoints`.

    Every start does one step at least.
    """

    def __init__(self, checkpoints: Checkpoints, most_seconds: float | None = None) -> None:
        """`most_seconds`: how long this start may train; None is without limit."""
        self._checkpoints = checkpoints
        self._most_seconds = most_seconds
        self._begun = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._asked: int | None = None
        self._exchanged = (0, 0.0)
        self._exchange_at = 0
        self.stopped_by: int | None = None
        """The number of the signal that ended the run, SIGTERM where another process was told to stop; None where
        nothing did, or the time was up."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals, from Lightning as well."""
        self._begun = time.monotonic()
        self._exchanged = trainer.global_step, self._begun
        self._exchange_at = trainer.global_step + 1
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save and stop where a process was told to."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self._is_over()
        if trainer.world_size > 1:
            if trainer.global_step < self._exchange_at:
                return
            asked = self._exchange(trainer, pl_module)
        if asked and trainer.global_step < trainer.max_steps:
            self.stopped_by = self._asked
            if self._asked is None and self._most_seconds is None:
                self.stopped_by = signal.SIGTERM
            self._checkpoints.save_last(trainer)
            trainer.should_stop = True

    def _is_over(self) -> bool:
        """Whether this process was told to stop, or has trained as long as it may."""
        late = self._most_seconds is not None and time.monotonic() - self._begun >= self._most_seconds
        return self._asked is not None or late

    def _exchange(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        """Return whether any process was told to stop, and agree on when to ask again."""
        step, begun = self._exchanged
        now = time.monotonic()
        steps = int(ASK_SECONDS * (trainer.global_step - step) / max(now - begun, 1e-3))
        asked, together = summed(trainer, module, float(self._is_over()), float(min(max(steps, 1), ASK_EVERY)))
        self._exchanged = trainer.global_step, now
        self._exchange_at = trainer.global_step + max(1, int(together) // trainer.world_size)
        return bool(asked > 0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise StoppedError(number)
        self._asked = number

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
