"""Which checkpoints a run keeps, what is in them, and how a run goes on from one.

    checkpoints/step-0050000.ckpt   every `checkpoint_every` steps, all kept
    checkpoints/best.ckpt           least validation loss
    checkpoints/last.ckpt           every `last_every` steps, at the end, and when the run is stopped

A checkpoint is Lightning's, with the trained parameters and the optimiser's state, and two entries of ours: the header
that says which network it is (`architecture.header_of`), and `run`, which says what it was trained on. It holds plain
values only. On a disk a file appears whole or not at all.

What a resumed run takes from it: weights, the optimiser's moments, the step. Not the learning rate or the decay, and
not the place in the data: those follow from the settings and the step.
"""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

import contextlib
import os
import pickle
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from deltactl.errors import CheckpointError
from deltactl.locations import Location, storage_errors
from deltactl.train.architecture import HEADER, header_of
from deltactl.train.batches import Batch
from deltactl.train.guard import FiniteGuard
from deltactl.train.inputs import DataRecord
from deltactl.train.metrics import Metrics
from deltactl.train.modules import TrainingModule

FOLDER = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
RUN = "run"


class Checkpoints(pl.Callback):
    """Saves checkpoints by the policy above; see the module docstring. Comes after `Metrics` and `FiniteGuard`."""

    def __init__(
        self,
        folder: Location,
        *,
        every: int,
        last_every: int,
        metrics: Metrics,
        guard: FiniteGuard,
        data: DataRecord,
        provenance: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._every = every
        self._last_every = last_every
        self._metrics = metrics
        self._guard = guard
        self._data = data
        self._provenance = provenance
        self._best_loss: float | None = None
        self._saved_step = -1

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
        if step % self._last_every == 0:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best so far."""
        loss = self._metrics.validation_loss
        if loss is not None and (self._best_loss is None or loss < self._best_loss):
            self._best_loss = loss
            self._save(trainer, BEST)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run."""
        self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Save `last`, unless it is of this step already."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, LAST)
            self._saved_step = trainer.global_step

    # --- what ---

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the network is and what it was trained on."""
        assert isinstance(pl_module, TrainingModule)
        checkpoint[HEADER] = header_of(pl_module.network, self._provenance)
        checkpoint[RUN] = {"data": self._data.to_json()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make Lightning's counters those of a run that has just finished a step, whatever wrote them."""
        progress = checkpoint["loops"]["fit_loop"]
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        fresh = trainer.fit_loop.state_dict()
        for name in progress:
            if name.startswith("epoch_loop.val_loop"):
                progress[name] = fresh[name]
        counter = progress["epoch_loop.batch_progress"]
        for part in ("total", "current"):
            counter[part] = dict.fromkeys(counter[part], batches)
        counter["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss so far."""
        return {"best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best loss so far; a run in another folder has yet to find its best."""
        if (self._folder / BEST).exists():
            self._best_loss = state_dict["best_loss"]

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        self._guard.look(trainer)
        target = self._folder / name
        if not target.is_local:
            trainer.save_checkpoint(str(target))
            return
        draft = target.path.with_name(f".{name}.partial")
        with storage_errors(target, "write"):
            target.path.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(draft)
            if trainer.is_global_zero:
                with draft.open("rb") as file:
                    os.fsync(file.fileno())
                draft.replace(target.path)
        trainer.strategy.barrier("checkpoint")


# --- going on --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from."""

    location: Location
    step: int
    data: DataRecord


def read_resume_point(place: str, run: Location) -> ResumePoint | None:
    """Return what `--resume` names: a file, a run (its `last`), or `auto`, the `last` of this run (None without one).

    CheckpointError where it is not a checkpoint with a full state.
    """
    if place == "auto":
        location = run / FOLDER / LAST
        if not location.exists():
            return None
    else:
        location = Location.of(place)
        if (location / FOLDER).exists():
            location = location / FOLDER / LAST
        if not location.exists():
            raise CheckpointError(
                f"there is no checkpoint {location} to resume; expected a .ckpt file, or a run's folder"
            )
    content = _load(location)
    if not {"optimizer_states", "global_step", "loops", RUN} <= content.keys():
        raise CheckpointError(
            f"{location} holds weights only, not the full state of a run; use --init to start from its weights"
        )
    return ResumePoint(location, int(content["global_step"]), DataRecord.from_json(content[RUN]["data"]))


def _load(location: Location) -> dict[str, Any]:
    """Return a checkpoint's content without reading its tensors from a local disk."""
    try:
        with contextlib.ExitStack() as stack:
            source: Any = location.path if location.is_local else stack.enter_context(location.open())
            content = torch.load(
                source, map_location="cpu", weights_only=True, mmap=True if location.is_local else None
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{location} is damaged, or not a checkpoint of deltactl: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{location} holds a {type(content).__name__}; expected the checkpoint of a run")
    return content
