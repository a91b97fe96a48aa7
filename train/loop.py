"""Runs a training: Lightning's Trainer with our callbacks, from a module and its data to checkpoints and figures.

What goes on here is the same for every network. The run's folder:

    config.yaml        all settings, as a file for --config
    provenance.json    versions, command, git state of each start
    checkpoints/       see `checkpointing`
    metrics.csv        see `tracking`; W&B's files lie beside it
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from deltactl.claims import Claim, hold
from deltactl.configs.show import to_yaml
from deltactl.configs.training import RUN_CONFIG, TrainingConfig
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import ArtifactError, ConfigError, DamagedError, StoppedError
from deltactl.locations import Location
from deltactl.progress import Progress, counted, format_number
from deltactl.redaction import redacted
from deltactl.train.batches import Batch
from deltactl.train.checkpointing import Checkpoints
from deltactl.train.choices import Choices, choose
from deltactl.train.compiling import prepare
from deltactl.train.data import RunData
from deltactl.train.epoch_loop import EpochLoop
from deltactl.train.faults import check_devices, check_processes, faults_of, trainer_faults
from deltactl.train.guard import FiniteGuard
from deltactl.train.inputs import DataRecord, lineage
from deltactl.train.interrupts import Interrupts
from deltactl.train.metrics import Metrics
from deltactl.train.modules import TrainingModule
from deltactl.train.order import BatchPlan
from deltactl.train.resume_point import FOLDER, ResumePoint, read_resume_point
from deltactl.train.tracking import MetricsFile, finish_tracking, run_provenance, wandb_logger
from deltactl.train.trained import Trained
from deltactl.train.wandb_login import wandb_mode

log = logging.getLogger(__name__)

PUBLISHED_BATCH = 1024
MANY_REPEATS = 50
EVALUATION_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one another where one of them evaluates meanwhile; Lightning's own is half an hour."""
HELD_OUT = ("validation/", "evaluation/")
"""How the names of the figures of a validation begin."""
PROVENANCE, METRICS = "provenance.json", "metrics.csv"


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run: Location
    step: int
    """Optimiser steps done, those of earlier starts included."""
    stopped: bool
    """Whether it was told to stop before its last step."""
    figures: dict[str, float]
    """The last figures that it reported."""
    signal: int | None = None
    """The number of the signal that stopped it."""

    def lines(self) -> list[str]:
        """Return the end of the run in words, and how to go on from a stop."""
        if self.stopped:
            return [f"stopped after step {self.step:,}; go on with --out {self.run} --resume auto"]
        held_out = {name: value for name, value in self.figures.items() if name.startswith(HELD_OUT)}
        rest = {name: value for name, value in self.figures.items() if name not in held_out}
        end = f"{self.run}: {self.step:,} steps done"
        return [*([_listed(rest)] if rest else []), f"{end}; {_listed(held_out)}" if held_out else end]


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def is_first_process() -> bool:
    """Whether this process is the one that writes; the others were started by it, or beside it on other machines."""
    # Before Lightning has started its processes, those of other machines know their machine's number only.
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0 and int(os.environ.get("NODE_RANK") or 0) == 0


def uses_gpu(config: TrainingConfig) -> bool:
    """Whether the settings train on GPUs, here."""
    accelerator = config.trainer.accelerator
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


@contextlib.contextmanager
def claim_run(run: Location) -> Iterator[Claim | None]:
    """Be the only training that writes to a run: ClaimedError where another one does.

    All processes of a training are one holder: the first claims, the others get None.
    """
    if not is_first_process():
        yield None
        return
    with hold(run) as claim:
        yield claim


def begin(config: TrainingConfig, run: Location, stage: str) -> ResumePoint | None:
    """Check that a run may begin in its folder, and return the checkpoint it goes on from, if any.

    ArtifactError where another run is there, ConfigError where the stage needs a checkpoint that was not given, or
    devices that are not here.
    """
    check_devices(config.trainer)
    check_processes(config.trainer, _count(config.trainer.devices, uses_gpu(config)))
    point = _resume_point(config, run)
    check_start(config, weights=config.init is not None, state=point is not None)
    within = is_within(point, run)
    if is_first_process():
        if not within and config.resume != "auto" and (run / FOLDER).list():
            raise ArtifactError(f"{run} holds a run already; go on with --resume auto, or choose another --out")
        _remove_old_drafts(run)
        (run / RUN_CONFIG).write_bytes(to_yaml(config, stage).encode())
    return point


def check_start(config: TrainingConfig, *, weights: bool, state: bool) -> None:
    """Raise ConfigError where a stage starts from an earlier run, and neither its weights nor its state are given."""
    if config.start == "weights" and not (weights or state):
        raise ConfigError("this stage starts from the weights of an earlier run; name its checkpoint: --init CKPT")
    if config.start == "state" and not state:
        raise ConfigError(
            "this stage goes on from the full state of an earlier run; name its checkpoint: --resume CKPT"
        )


def is_within(point: ResumePoint | None, run: Location) -> bool:
    """Whether a checkpoint is one of this run's own."""
    return point is not None and str(point.location).startswith(f"{run}/")


def _remove_old_drafts(run: Location) -> None:
    """Remove half checkpoints that bear no process, as earlier versions left them when they were killed."""
    if run.is_local:
        for draft in (run / FOLDER).path.glob(".*.ckpt.partial"):
            draft.unlink(missing_ok=True)


def _resume_point(config: TrainingConfig, run: Location) -> ResumePoint | None:
    """Return the checkpoint to go on from; a run that began from the one that is named goes on from its own last.

    So the command of a stage that starts from another run's state can be given again after it was stopped.
    """
    if config.resume is None:
        return None
    if config.resume != "auto" and (run / RUN_CONFIG).exists():
        before = read_yaml_mapping((run / RUN_CONFIG).read_whole(), str(run / RUN_CONFIG))
        if before.get("resume") == config.resume:
            own = read_resume_point("auto", run)
            if own is not None:
                log.info("%s began from %s; it goes on from its own last checkpoint", run, config.resume)
                return own
    return read_resume_point(config.resume, run)


def make_trainer(
    config: TrainingConfig, choices: Choices, callbacks: Sequence[pl.Callback], loggers: Sequence[Logger]
) -> pl.Trainer:
    """Return Lightning's trainer; ConfigError where the settings do not fit this machine."""
    settings = config.trainer
    on_gpu = uses_gpu(config)
    with trainer_faults():
        trainer = pl.Trainer(
            # `auto` could pick an accelerator that none of this was tried on.
            accelerator="cuda" if on_gpu else "cpu",
            devices=list(settings.devices)
            if isinstance(settings.devices, tuple)
            else _devices(settings.devices, on_gpu),
            num_nodes=settings.num_nodes,
            strategy=_strategy(config),
            deterministic=settings.deterministic,
            detect_anomaly=settings.detect_anomaly,
            profiler=settings.profiler,
            precision=choices.precision,
            max_steps=config.steps,
            max_epochs=-1,
            gradient_clip_val=config.clip_norm,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            logger=list(loggers),
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    EpochLoop.take_place(trainer)
    return trainer


def _strategy(config: TrainingConfig) -> str | DDPStrategy:
    """Return Lightning's strategy; with evaluations, one whose processes wait for the one that does them."""
    settings = config.trainer
    several = settings.num_nodes > 1 or _count(settings.devices, uses_gpu(config)) > 1
    if several and config.evaluate and settings.strategy in ("auto", "ddp"):
        return DDPStrategy(timeout=EVALUATION_TIMEOUT)
    return settings.strategy


def _count(devices: int | str | tuple[int, ...], on_gpu: bool) -> int:
    if isinstance(devices, tuple):
        return len(devices)
    if isinstance(devices, int):
        return devices
    return torch.cuda.device_count() if on_gpu else 1


def _devices(devices: int | str, on_gpu: bool) -> int | str:
    return 1 if devices == "auto" and not on_gpu else devices


def fit(
    module: TrainingModule,
    data: RunData,
    config: TrainingConfig,
    run: Location,
    record: DataRecord,
    point: ResumePoint | None,
    extra: Sequence[pl.Callback] = (),
    *,
    claim: Claim | None = None,
    trained: Trained,
    notes: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> RunResult:
    """Train `module` to `config.steps`, from `point` where one is given, and return how it ended.

    `extra` callbacks, such as an evaluation, are asked before figures are reported and checkpoints chosen; their
    figures go to `Metrics.extra`. `trained` is what checkpoints are to say about the data, `notes` what was said about
    settings that differ from it. TrainingError where the loss is no longer finite.
    """
    if point is not None:
        point.data.check(record, str(point.location), str(data))
        if point.step >= config.steps:
            return RunResult(run, point.step, False, {})
    for library in ("lightning.pytorch", "lightning.fabric"):  # what they say of processes is not for users
        logging.getLogger(library).setLevel(logging.WARNING)
    provenance = run_provenance(frozen=record.frozen, trained=trained.to_json(), notes=list(notes))
    metrics, guard = Metrics(run, config.log_every), FiniteGuard()
    checkpoints = Checkpoints(
        run / FOLDER,
        every=config.checkpoint_every,
        last_every=config.last_every,
        last_seconds=60 * config.last_minutes,
        metrics=metrics,
        guard=guard,
        data=record,
        provenance=provenance,
        claim=claim,
        goes_on=is_within(point, run),
    )
    interrupts = Interrupts(checkpoints, config.trainer.most_seconds)
    callbacks = [guard, *extra, metrics, checkpoints, interrupts, ShowProgress(config.steps, metrics)]
    choices = choose(config, on_gpu=uses_gpu(config))
    trainer = make_trainer(config, choices, callbacks, _loggers(config, run, provenance, point))
    _cut_into_batches(trainer, data, config)
    module.fused = choices.fused
    compilation = prepare(
        module,
        choices,
        device_type=trainer.strategy.root_device.type,
        processes=trainer.world_size,
        accumulate=data.plan.accumulate,
    )
    _say_how(trainer, data, config)
    provenance["data"] = _summary(data, record)
    if classes:
        provenance["classes"] = list(classes)
    checkpoint = None if point is None else str(point.location)
    try:
        with faults_of(trainer, config), compilation, checkpoints.restoring(point):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as end:  # Lightning's way to pass on Ctrl-C, and what is raised like it
        stop = next((each for each in (end, end.__context__) if isinstance(each, StoppedError)), None)
        raise stop or StoppedError from end
    finally:
        finish_tracking(trainer.loggers)
    return RunResult(
        run, trainer.global_step, trainer.global_step < config.steps, metrics.latest, interrupts.stopped_by
    )


def _loggers(
    config: TrainingConfig, run: Location, provenance: dict[str, Any], point: ResumePoint | None
) -> list[Logger]:
    """Return the loggers of this process, and note down how it was started."""
    if not is_first_process():
        return []
    starts = _starts(run / PROVENANCE)
    (run / PROVENANCE).write_json([*starts, {**provenance, "step": 0 if point is None else point.step}])
    file = MetricsFile(run / METRICS)
    if point is None:
        file.start_at(0)
    else:
        file.start_at(point.step, validated=point.validated)
    mode = wandb_mode(config.wandb)
    if mode == "disabled" or not run.is_local:
        return [file]
    settings = redacted({**config.model_dump(mode="json"), "provenance": provenance})
    return [file, wandb_logger(mode, config.project, run.name, run.path, settings)]


def _starts(place: Location) -> list[Any]:
    """Return what is known of the earlier starts of a run; DamagedError where the file is not what they wrote."""
    if not place.exists():
        return []
    starts = place.read_json()
    if not isinstance(starts, list):
        raise DamagedError(
            f"{place} is damaged: it is a {type(starts).__name__}, not the list of a run's starts; move it away"
        )
    return starts


def _cut_into_batches(trainer: pl.Trainer, data: RunData, config: TrainingConfig) -> None:
    """Choose the accumulation for the devices there are; validations are counted in batches by Lightning."""
    batch, accumulate = config.batches(trainer.world_size)
    plan = BatchPlan(batch, trainer.world_size, accumulate)
    trainer.accumulate_grad_batches = plan.accumulate
    trainer.val_check_interval = config.validate_every * plan.accumulate
    if not data.held_out:
        if config.evaluate:
            raise ConfigError(
                f"nothing of {data} is held out, so that there are no validations to evaluate on {config.evaluate[0]} "
                f"with; set validation_fraction above {config.validation_fraction:g}"
            )
        trainer.limit_val_batches = 0
    data.use(plan)


def _say_how(trainer: pl.Trainer, data: RunData, config: TrainingConfig) -> None:
    """Print what the batch is made of and how often samples repeat."""
    if not trainer.is_global_zero:
        return
    plan = data.plan
    log.info(
        "effective batch %s = %s × %s × %s; %s train, %s held out",
        f"{plan.effective:,}",
        counted(plan.batch, "samples"),
        counted(plan.devices, "devices"),
        counted(plan.accumulate, "batches"),
        counted(data.clips, data.unit),
        f"{data.held_out:,}",
    )
    if plan.effective != PUBLISHED_BATCH and has_published_network(config):
        log.warning("the effective batch is %d; the published recipe was tuned for %d", plan.effective, PUBLISHED_BATCH)
    repeats = data.repeats(config.steps * plan.effective)
    if repeats is None:
        visits = config.steps * plan.effective / data.clips
        log.info(
            "live: %d steps visit each clip %s times, each time with another crop", config.steps, format_number(visits)
        )
        return
    log.info("%d steps repeat each sample %s times", config.steps, format_number(repeats))
    if repeats > MANY_REPEATS:
        log.warning(
            "each sample repeats %s times; published training drew fresh frames and crops at every step. More views "
            "(deltactl featurize --views), more clips a video (deltactl ingest --clips) or live training repeat less",
            f"{repeats:,.0f}",
        )


def has_published_network(config: TrainingConfig) -> bool:
    """Whether the network is one that the published recipe, with its batch, was tuned for; a small one is not."""
    usual = type(config).model_fields.get("network")  # a head has none
    return usual is not None and getattr(config, "network", None) == usual.get_default(call_default_factory=True)


def _summary(data: RunData, record: DataRecord) -> dict[str, Any]:
    """Return what the run learns from, for its checkpoints and the cards of what is exported from them."""
    values = record.identity.values
    known = {name: values[name] for name in ("size", "frames", "crops") if name in values}
    kind = {"shards": "shards, live"}.get(record.identity.kind, record.identity.kind)
    return {
        "from": kind,
        **lineage(data.place),
        **known,
        f"training_{data.unit}": data.clips,
        f"held_out_{data.unit}": data.held_out,
    }


class ShowProgress(pl.Callback):
    """A bar, or plain lines, of the steps and the loss."""

    def __init__(self, steps: int, metrics: Metrics) -> None:
        self._steps = steps
        self._metrics = metrics
        self._progress: Progress | None = None
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Begin, at the step that the run stands at."""
        if trainer.is_global_zero:
            self._seen = trainer.global_step
            self._progress = Progress(
                self._steps - self._seen, unit="steps", label="train", note=self._loss
            ).__enter__()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count a step."""
        if self._progress is not None and trainer.global_step > self._seen:
            self._progress.advance(trainer.global_step - self._seen)
            self._seen = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """End."""
        self._end()

    def _loss(self) -> str:
        loss = self._metrics.running_loss()
        return "" if loss is None else f"loss {loss:.4g}"

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
