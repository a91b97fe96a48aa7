"""What a run reports: losses, health and speed every few steps and at the last one, and what each validation found.

Figures stay on the device and are averaged over the processes when they are reported: a step between reports waits for
nothing. They go to every logger of the trainer, under the number of steps done. The losses since the last report go to
checkpoints: the first report of a resumed run is over the same steps as that of an unbroken run.
"""

# ruff: noqa: ARG002 (the signatures of hooks are Lightning's)
from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from deltactl.locations import Location
from deltactl.train.data.batches import Batch, Batches
from deltactl.train.data.validation import HeldOut
from deltactl.train.steps.alarm import ZSwapAlarm
from deltactl.train.steps.modules import TrainingModule

log = logging.getLogger(__name__)

Figure = TypeVar("Figure", float, Tensor)

REPORTS = "reports"
"""The entry of a checkpoint that says what the next report goes on from."""


class Metrics(pl.Callback):
    """Reports every `log_every` steps, and after each validation what it found.

    After a validation, `validation` holds the figures on the held-out clips and `extra` those that other callbacks,
    such as an evaluation on data sets, have put there; the checkpoint policy reads `validation_loss`.
    """

    def __init__(self, run: Location, log_every: int, alarm: ZSwapAlarm) -> None:
        self.run = run
        """The run's folder."""
        self._log_every = log_every
        self._alarm = alarm
        self._losses: list[Tensor] = []
        """Of the steps since the last report."""
        self._of_step: list[Tensor] = []
        """Of the batches of the step under way."""
        self._samples = 0
        self._begun = self._waited = self._validation_begun = 0.0
        self._sums: dict[str, Tensor] = {}
        self.validation: dict[str, float] = {}
        self._of_sets: dict[str, float] = {}
        """Where there are several sets, the figures of the last validation on each, as SET/FIGURE."""
        self.extra: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        """The last figures reported: of training, and of the last validation."""

    @property
    def validation_loss(self) -> float | None:
        """The loss of the last validation: over the evaluation sets where a callback gave one, else held out."""
        loss = self.extra.get("evaluation/loss", self.validation.get("loss"))
        return None if loss is None or loss != loss else loss

    def running_loss(self) -> float | None:
        """Return the mean loss of this process since the last report, or the last one that was reported.

        Waits for the device.
        """
        return float(torch.stack(self._losses).float().mean()) if self._losses else self.latest.get("train/loss")

    # --- training ---

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        assert isinstance(pl_module, TrainingModule)
        self._losses = [loss.to(pl_module.device) for loss in self._losses]
        self._start_clock(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Tell the module whether its figures will be read after this step."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.wants_figures = self._is_reported(trainer, trainer.global_step + 1)
        self._samples += len(batch.places)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Collect the loss; report where it is time."""
        assert isinstance(pl_module, TrainingModule)
        self._of_step.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._losses.append(self._of_step[0] if len(self._of_step) == 1 else torch.stack(self._of_step).mean())
        self._of_step.clear()
        if not self._is_reported(trainer, trainer.global_step):
            return
        figures = {"loss": torch.stack(self._losses).float().mean(), **_prefixed("figure", pl_module.figures)}
        if pl_module.gradient_norm is not None:
            figures["gradient_norm"] = pl_module.gradient_norm
        means = _mean_over_processes(trainer, figures)
        seconds = time.perf_counter() - self._begun
        waited = _batches(trainer).waited_seconds - self._waited
        report = {
            "train/loss": means["loss"],
            "train/lr": pl_module.settings.lr_at(trainer.global_step - 1),
            "train/samples_per_second": self._samples * trainer.world_size / seconds,
            "train/waiting": waited / seconds,
            **({"train/gradient_norm": means["gradient_norm"]} if "gradient_norm" in means else {}),
            **_prefixed("health", pl_module.health_of(_unprefixed("figure", means))),
        }
        self.latest.update(report)
        self._log(trainer, report)
        self._warn(trainer, report)
        self._losses.clear()
        self._start_clock(trainer)

    def _is_reported(self, trainer: pl.Trainer, step: int) -> bool:
        return step % self._log_every == 0 or step == trainer.max_steps

    def _start_clock(self, trainer: pl.Trainer) -> None:
        self._samples = 0
        self._begun = time.perf_counter()
        self._waited = _batches(trainer).waited_seconds

    def _warn(self, trainer: pl.Trainer, figures: dict[str, float]) -> None:
        z_swap = figures.get("health/z_swap")
        said = None if z_swap is None else self._alarm.read(trainer.global_step, z_swap)
        if said and trainer.is_global_zero:
            log.log(logging.WARNING if self._alarm.warning else logging.INFO, "%s", said)

    # --- validation ---

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last validation."""
        self._validation_begun = time.perf_counter()
        self._sums = defaultdict(lambda: torch.zeros((), device=pl_module.device, dtype=torch.float64))
        self.extra = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up a batch's figures, each sample once; those of a batch of one may be fewer."""
        of_set = f"{batch.set_name}/" if batch.set_name else ""
        for name, value in outputs.items():
            self._sums[f"{of_set}{name}"] += value.double() * len(batch.places)
            self._sums[f"{of_set}{name}/samples"] += len(batch.places)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average over all held-out clips; of several sets over those of each, and over the sets by their shares."""
        sums = _sum_over_processes(trainer, self._sums)
        names = [name for name in sums if not name.endswith("/samples")]
        means = {name: sums[name] / sums[f"{name}/samples"] for name in names}
        held_out = trainer.val_dataloaders
        weights = held_out.weights if isinstance(held_out, HeldOut) else {"": 1.0}
        self.validation, self._of_sets = (means, {}) if "" in weights else (_over_sets(means, weights), means)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; after the other callbacks have had `on_validation_epoch_end` for theirs."""
        assert isinstance(pl_module, TrainingModule)
        found = {**self.validation, **pl_module.health_of(self.validation)}
        report = {**_prefixed("validation", found), **_prefixed("validation", self._of_sets), **self.extra}
        self.latest.update(report)
        self._log(trainer, report)
        # The time of a validation does not count as training's.
        self._begun += time.perf_counter() - self._validation_begun

    # --- going on ---

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the losses since the last report, averaged over the processes, and what the alarm has read."""
        losses = {str(number): loss for number, loss in enumerate(self._losses)}
        means = list(_mean_over_processes(trainer, losses).values()) if losses else []
        checkpoint[REPORTS] = {
            "losses": means,
            "low_readings": self._alarm.low,
            "low_since": self._alarm.low_since,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with them; checkpoints that are older than an entry have none."""
        said = checkpoint.get(REPORTS, {})
        self._losses = [torch.tensor(loss) for loss in said.get("losses", [])]
        self._alarm.low, self._alarm.low_since = int(said.get("low_readings", 0)), said.get("low_since")

    def _log(self, trainer: pl.Trainer, figures: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)


def _batches(trainer: pl.Trainer) -> Batches:
    loader = trainer.train_dataloader
    assert isinstance(loader, Batches)
    return loader


def _prefixed(prefix: str, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def _unprefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in figures.items() if name.startswith(f"{prefix}/")}


def _mean_over_processes(trainer: pl.Trainer, figures: dict[str, Tensor]) -> dict[str, float]:
    """Return the figures, averaged over the processes in one exchange; every process has the same names."""
    values = torch.stack([value.detach().float() for value in figures.values()])
    values = trainer.strategy.reduce(values, reduce_op="mean")
    return dict(zip(figures, values.tolist(), strict=True))


def _over_sets(means: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each figure over the sets that have it, by their weights."""
    sums: dict[str, float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for of_set, weight in weights.items():
        for name, value in _unprefixed(of_set, dict(means)).items():
            sums[name] += weight * value
            totals[name] += weight
    return {name: total / totals[name] for name, total in sums.items()}


def _sum_over_processes(trainer: pl.Trainer, sums: dict[str, Tensor]) -> dict[str, float]:
    """Return the sums over all processes, some of which may have had no sample."""
    mine = {name: float(value) for name, value in sums.items()}
    gathered = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(gathered, mine)
    total: dict[str, float] = defaultdict(float)
    for each in gathered:
        for name, value in each.items():
            total[name] += value
    return dict(total)
