"""Which checkpoints a run keeps, what is in them, and how a run goes on from one.

    checkpoints/step-0050000.ckpt   every `checkpoint_every` steps, all kept
    checkpoints/best.ckpt           least validation loss
    checkpoints/last.ckpt           every ten minutes (or `last_every` steps), at the end, and when the run is stopped

A checkpoint is Lightning's, with the trained parameters and the optimizer's state, and two entries of ours: the header
that says which network it is (`headers`), and `run`, which says what it was trained on. It holds plain
values only. On a disk a file appears whole or not at all. All processes wait while one is written, about a second for
1 GB: by time that is 0.2 % of any run, where by steps of 25 ms, every 500, it would be 8 %.

A resumed run takes from it the weights, the optimizer's moments and the step. Learning rate, decay and the place in the
data follow from the settings and the step. Where a run ended before the validation of its step was done, the resumed
one begins with that (`epoch_loop`).

Lightning's own `ModelCheckpoint` is not used: it keeps absolute paths of files in its state, deletes what it replaces,
saves by the clock of one process, and knows nothing of a best loss that came from a run's earlier start.
"""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

import math
import os
import time
from typing import Any

import lightning.pytorch as pl

from deltactl.claims import Claim
from deltactl.drafts import draft_name
from deltactl.fields import Fields
from deltactl.locations import Location, fsync_folder, make_folder, storage_errors
from deltactl.train.callbacks.agreement import any_process, is_asking_step
from deltactl.train.callbacks.cost import Cost
from deltactl.train.callbacks.guard import FiniteGuard
from deltactl.train.callbacks.metrics import Metrics
from deltactl.train.checkpoints.cost import HEADER_KEY as COST
from deltactl.train.checkpoints.headers import HEADER, header_of
from deltactl.train.checkpoints.resume_point import BEST, LAST, RUN, ResumePoint, load_state
from deltactl.train.data.batches import Batch
from deltactl.train.data.records import RunRecord
from deltactl.train.steps.modules import TrainingModule

RESULTS = ("train/loss", "validation/", "evaluation/", "health/")
"""How the names of the figures begin that say how well a network was trained; the others are about speed."""


class Checkpoints(pl.Callback):
    """Saves checkpoints by the policy above; see the module docstring. Comes after `Metrics` and `FiniteGuard`."""

    def __init__(
        self,
        folder: Location,
        *,
        every: int,
        last_every: int | None,
        last_seconds: float,
        metrics: Metrics,
        cost: Cost,
        guard: FiniteGuard,
        data: RunRecord,
        provenance: dict[str, Any],
        claim: Claim | None = None,
        point: ResumePoint | None = None,
    ) -> None:
        """Set the policy.

        `claim`: that of the run, which is confirmed before a checkpoint appears. `point`: the checkpoint that the run
        goes on from, its own or that of another run.
        """
        self._folder = folder
        self._every = every
        self._last_every = last_every
        self._last_seconds = last_seconds
        self._saved_at = time.monotonic()
        self._metrics = metrics
        self._cost = cost
        self._guard = guard
        self._data = data
        self._provenance = provenance
        self._claim = claim
        self._goes_on = point is not None and point.lies_in(folder)
        self._best_loss: float | None = None
        self._kept_loss: float | None = None
        """That of best.ckpt, which may be younger than the state that the run goes on from."""
        self._validated_step = point.step if point is not None and point.validated else -1
        self._saved = (-1, False)
        """Step of the last `last`, and whether it was validated by then."""

    # --- when ---

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save where the step's number says so."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if step % self._every == 0:
            self._save(trainer, f"step-{step:07d}.ckpt")
        if step < trainer.max_steps and self._last_is_due(trainer, pl_module):
            self.save_last(trainer)

    def _last_is_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether `last` is to be written after this step; the same in all processes."""
        if self._last_every is not None:
            return trainer.global_step % self._last_every == 0
        if not is_asking_step(trainer):
            return False
        return any_process(trainer, pl_module, time.monotonic() - self._saved_at >= self._last_seconds)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best so far, and what was saved before this validation once more."""
        self._validated_step = trainer.global_step
        loss = self._metrics.validation_loss
        if loss is not None and (self._best_loss is None or loss < self._best_loss):
            self._best_loss = loss
            if self._kept_loss is None or loss < self._kept_loss:
                self._save(trainer, BEST)
                self._kept_loss = loss
        if self._saved[0] == trainer.global_step:
            self.save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run."""
        self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Save `last`, unless it is of this moment already."""
        now = (trainer.global_step, self._validated_step == trainer.global_step)
        if now != self._saved:
            self._save(trainer, LAST)
            self._saved = now
            self._saved_at = time.monotonic()

    # --- what ---

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the network is and what it was trained on."""
        assert isinstance(pl_module, TrainingModule)
        held_out = {f"validation/{name}": value for name, value in self._metrics.validation.items()}
        latest = {**self._metrics.latest, **held_out, **self._metrics.extra}.items()
        metrics = {
            name: float(f"{value:.6g}") for name, value in latest if name.startswith(RESULTS) and math.isfinite(value)
        }
        checkpoint[HEADER] = header_of(
            pl_module.network, {**self._provenance, COST: self._cost.to_json(trainer), "metrics": metrics}
        )
        validated = self._validated_step == trainer.global_step
        checkpoint[RUN] = {"data": self._data.to_json(), "validated": validated}

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss so far."""
        return {"best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best loss of the state, and keep best.ckpt until there is a better one."""
        if self._goes_on:
            self._best_loss = state_dict["best_loss"]
        if (self._folder / BEST).exists():
            place = self._folder / BEST
            mine = Fields(load_state(place), place).nested("callbacks").nested(self.state_key)
            self._kept_loss = None if mine.values.get("best_loss") is None else mine.number("best_loss")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        self._guard.check_losses(trainer)
        for logger in trainer.loggers:
            logger.save()  # a run that goes on from here has no figures of the steps before
        if self._claim is not None:
            self._claim.confirm()
        target = self._folder / name
        if not target.is_local:
            trainer.save_checkpoint(str(target))
            return
        draft = target.path.with_name(draft_name(name))  # that of the first process counts, which alone writes
        with storage_errors(target, "write"):
            make_folder(target.path.parent)
            try:
                trainer.save_checkpoint(draft)
                if trainer.is_global_zero:
                    with draft.open("rb") as file:
                        os.fsync(file.fileno())
                    draft.replace(target.path)
                    fsync_folder(target.path.parent)
            finally:
                draft.unlink(missing_ok=True)
        trainer.strategy.barrier("checkpoint")
