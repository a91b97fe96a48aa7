"""What happens around a training step: Lightning's Trainer with our callbacks, from a module and its data to a run.

The step itself is in `modules`. Around it, in this order after every batch:

    FiniteGuard    stops at a loss that is not finite (`guard`)
    extra          such as an evaluation on data sets, after each validation (`evaluate.during_training`)
    Metrics        reports losses, health and speed to `metrics.csv` and W&B (`metrics`, `tracking`)
    Checkpoints    writes `checkpoints/step-N.ckpt`, `best.ckpt` and `last.ckpt` (`checkpointing`)
    Interrupts     ends the run after the step under way, at a signal or when the time is up (`interrupts`)
    ShowProgress   the bar (`progress_bar`)

When steps are validated, and what of Lightning's state a run goes on from, is in `epoch_loop`. What goes on here is the
same for every network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from deltactl.claims import Claim
from deltactl.configs.training import TrainingConfig
from deltactl.errors import ConfigError, StoppedError
from deltactl.locations import Location
from deltactl.progress import counted, format_number
from deltactl.train.callbacks.checkpointing import Checkpoints
from deltactl.train.callbacks.cost import Cost, hours_before
from deltactl.train.callbacks.epoch_loop import EpochLoop
from deltactl.train.callbacks.guard import FiniteGuard
from deltactl.train.callbacks.interrupts import Interrupts
from deltactl.train.callbacks.metrics import Metrics
from deltactl.train.callbacks.progress_bar import ShowProgress
from deltactl.train.callbacks.tracking import finish_tracking, open_loggers, run_provenance
from deltactl.train.checkpoints.resume_point import FOLDER, ResumePoint
from deltactl.train.checkpoints.trained import Trained
from deltactl.train.data.module import RunData
from deltactl.train.data.order import BatchPlan
from deltactl.train.data.records import RunRecord
from deltactl.train.faults import faults_of, trainer_faults
from deltactl.train.processes import devices_per_node, uses_gpu
from deltactl.train.steps.alarm import ZSwapAlarm
from deltactl.train.steps.choices import Choices
from deltactl.train.steps.compiling import prepare
from deltactl.train.steps.modules import TrainingModule

log = logging.getLogger(__name__)

PUBLISHED_BATCH = 1024
MANY_REPEATS = 50
EVALUATION_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one another where one of them evaluates meanwhile; Lightning's own is half an hour."""
HELD_OUT = ("validation/", "evaluation/")
"""How the names of the figures of a validation begin."""


@dataclass(frozen=True)
class Setup:
    """What a run trains on, and how: all that `fit` asks besides the module."""

    config: TrainingConfig
    """The settings, which fit the data."""
    choices: Choices
    data: RunData
    record: RunRecord
    """What is read, as checkpoints remember it."""
    trained: Trained
    """What checkpoints say about the data to those who use the network."""
    notes: Sequence[str] = ()
    """Sentences about settings that differ from the data's or the checkpoints'."""
    classes: Sequence[str] = ()
    """Names of the classes that a head predicts."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run: Location
    step: int
    """Optimizer steps done, those of earlier starts included."""
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


def fit(
    module: TrainingModule,
    setup: Setup,
    run: Location,
    point: ResumePoint | None,
    extra: Sequence[pl.Callback] = (),
    claim: Claim | None = None,
) -> RunResult:
    """Train a module to `config.steps`, from `point` where one is given, and return how it ended.

    `extra` callbacks, such as an evaluation, are asked before figures are reported and checkpoints chosen; their
    figures go to `Metrics.extra`. `claim` is that of the run's folder.

    Raises:
        ConfigError: the settings do not work on this machine.
        IdentityError: `point` was trained on other data.
        TrainingError: the loss is not finite, memory ran out, or a process was lost.
        StoppedError: a second Ctrl-C.
    """
    config, data, record = setup.config, setup.data, setup.record
    if point is not None:
        point.data.check(record, str(point.location), data.places)
        if point.step >= config.steps:
            return RunResult(run, point.step, False, {})
    for library in ("lightning.pytorch", "lightning.fabric"):  # what they say of processes is not for users
        logging.getLogger(library).setLevel(logging.WARNING)
    provenance = run_provenance(frozen=record.frozen, trained=setup.trained.to_json(), notes=list(setup.notes))
    plan = plan_batches(config, data)
    data.use(plan)
    loggers = open_loggers(config, run, provenance, point)
    guard, metrics = FiniteGuard(), Metrics(run, config.log_every, ZSwapAlarm.of(config.model_dump()))
    cost = Cost(hours_before(config.init, resumed=point is not None))
    checkpoints = Checkpoints(
        run / FOLDER,
        every=config.checkpoint_every,
        last_every=config.last_every,
        last_seconds=60 * config.last_minutes,
        metrics=metrics,
        cost=cost,
        guard=guard,
        data=record,
        provenance={
            **provenance,
            "data": data.summary(record),
            **({"classes": list(setup.classes)} if setup.classes else {}),
        },
        claim=claim,
        point=point,
    )
    interrupts = Interrupts(checkpoints, config.trainer.most_seconds)
    callbacks = [guard, *extra, metrics, cost, checkpoints, interrupts, ShowProgress(config.steps, metrics)]
    trainer = make_trainer(setup, plan, callbacks, loggers, validate_first=point is not None and not point.validated)
    compilation = prepare(
        module,
        setup.choices,
        device_type=trainer.strategy.root_device.type,
        processes=plan.devices,
        accumulate=plan.accumulate,
    )
    if trainer.is_global_zero:
        log_start(data, config)
    try:
        with faults_of(trainer, config, point), compilation:
            checkpoint = None if point is None else str(point.location)
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as end:  # Lightning's way to pass on Ctrl-C, and what is raised like it
        stop = next((each for each in (end, end.__context__) if isinstance(each, StoppedError)), None)
        raise stop or StoppedError from end
    finally:
        finish_tracking(trainer.loggers)
    stopped = trainer.global_step < config.steps
    return RunResult(run, trainer.global_step, stopped, metrics.latest, interrupts.stopped_by)


def plan_batches(config: TrainingConfig, data: RunData) -> BatchPlan:
    """Return how steps are cut into batches for the devices there are.

    Raises:
        ConfigError: there are sets to evaluate on, and no clips are held out to validate on.
    """
    if config.evaluate and not data.held_out:
        raise ConfigError(
            f"nothing of {data} is held out, so that there are no validations to evaluate on {config.evaluate[0]} "
            f"with; set validation_fraction above {config.validation_fraction:g}"
        )
    devices = devices_per_node(config.trainer) * config.trainer.num_nodes
    batch, accumulate = config.batches(devices)
    return BatchPlan(batch, devices, accumulate)


def make_trainer(
    setup: Setup,
    plan: BatchPlan,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Logger],
    *,
    validate_first: bool = False,
) -> pl.Trainer:
    """Return Lightning's trainer; `validate_first`: the step that it goes on from has not been validated.

    Raises:
        ConfigError: the settings do not fit this machine.
    """
    config, settings = setup.config, setup.config.trainer
    strategy: str | DDPStrategy = settings.strategy
    if plan.devices > 1 and config.evaluate and strategy in ("auto", "ddp"):
        strategy = DDPStrategy(timeout=EVALUATION_TIMEOUT)
    with trainer_faults():
        trainer = pl.Trainer(
            # `auto` could pick an accelerator that none of this was tried on.
            accelerator="cuda" if uses_gpu(settings) else "cpu",
            devices=list(settings.devices) if isinstance(settings.devices, tuple) else devices_per_node(settings),
            num_nodes=settings.num_nodes,
            strategy=strategy,
            deterministic=settings.deterministic,
            detect_anomaly=settings.detect_anomaly,
            profiler=settings.profiler,
            precision=setup.choices.precision,
            max_steps=config.steps,
            max_epochs=-1,
            accumulate_grad_batches=plan.accumulate,
            gradient_clip_val=config.clip_norm,
            limit_val_batches=1.0 if setup.data.held_out else 0,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            logger=list(loggers),
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    assert trainer.world_size == plan.devices
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, config.steps, config.validate_every, validate_first=validate_first)
    return trainer


def log_start(data: RunData, config: TrainingConfig) -> None:
    """Log what a step's batch is made of and how often samples repeat."""
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
    for line in data.lines(config.steps * plan.effective):
        log.info("%s", line)
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
    fields = type(config).model_fields
    if "network" not in fields or fields["effective_batch"].default != PUBLISHED_BATCH:  # a head of any kind
        return False
    return bool(getattr(config, "network", None) == fields["network"].get_default(call_default_factory=True))
