"""What can be said of a run at one moment: whether it goes on, how far it is, its curves, warnings and pictures.

Takes the folder of a run, on a disk or in an object store, and only reads. A run goes on as long as a process holds it
(`claims`); it is asked before the figures are read, so that the last look at a run that ended has all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deltactl.claims import writers
from deltactl.configs.training import EVALUATIONS, METRICS, RUN_CONFIG
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.locations import Location
from deltactl.progress import format_number, format_seconds
from deltactl.train.steps.alarm import ZSwapAlarm
from deltactl.watch.curves import Curves
from deltactl.watch.figures import Reading, readings, warnings
from deltactl.watch.metrics_file import MetricsFile

Z_SWAP = "health/z_swap"
MOST_PICTURES = 4

State = Literal["running", "finished", "stopped", "ended"]
"""`ended`: nobody writes to it, and how many steps it was to have is not known."""


@dataclass(frozen=True)
class Plan:
    """What a run's `config.yaml` says about how long it is; None where it does not say."""

    stage: str = "training"
    steps: int | None = None
    log_every: int | None = None
    warmup_steps: int = 0
    samples_per_step: int | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Plan:
        """Return the plan of a config, of this version or another."""

        def whole(name: str) -> int | None:
            value = config.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

        batch = whole("effective_batch")
        if (accumulate := whole("accumulate")) is not None:
            trainer = config.get("trainer")
            trainer = trainer if isinstance(trainer, dict) else {}
            devices, nodes, size = trainer.get("devices"), trainer.get("num_nodes", 1), whole("batch_size")
            count = len(devices) if isinstance(devices, list) else devices
            known = isinstance(count, int) and isinstance(nodes, int) and size is not None
            batch = size * accumulate * count * nodes if known and size and count and nodes else None
        stage = config.get("stage")
        return cls(
            stage if isinstance(stage, str) else "training",
            whole("steps"),
            whole("log_every"),
            whole("warmup_steps") or 0,
            batch,
        )


@dataclass
class Figures:
    """The curves of a run, and the alarm that its training has, over the same readings."""

    settings: Mapping[str, Any]
    """Those of the run's `config.yaml`."""
    curves: Curves = field(default_factory=Curves)
    _alarm: ZSwapAlarm | None = None

    @property
    def warning(self) -> str | None:
        """What the alarm said, while it holds."""
        return None if self._alarm is None else self._alarm.warning

    def clear(self) -> None:
        """Begin anew."""
        self.curves.clear()
        self._alarm = None

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Take a row."""
        self.curves.add(step, figures)
        if Z_SWAP in figures:
            self._alarm = self._alarm or ZSwapAlarm.of(self.settings)
            self._alarm.read(step, figures[Z_SWAP])


@dataclass(frozen=True)
class Moment:
    """A run at one moment."""

    run: Location
    plan: Plan
    state: State
    writers: tuple[str, ...]
    """Who writes to it."""
    curves: Curves
    readings: list[Reading]
    warnings: list[str]
    reported_seconds_ago: float | None
    pictures: list[Location]
    """Those of the newest evaluation during training."""

    @property
    def is_running(self) -> bool:
        """Whether a process trains it."""
        return self.state == "running"

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1."""
        if self.plan.steps is None:
            return None
        return min(1.0, (self.curves.step or 0) / self.plan.steps)

    @property
    def steps_per_second(self) -> float | None:
        """At the last report, without validations."""
        rate, batch = self.curves.newest("train/samples_per_second"), self.plan.samples_per_step
        return rate / batch if rate and batch and 0 < rate < float("inf") else None

    @property
    def seconds_left(self) -> float | None:
        """To the last step, without validations."""
        rate = self.steps_per_second
        if rate is None or self.plan.steps is None or not self.is_running:
            return None
        return max(0, self.plan.steps - (self.curves.step or 0)) / rate

    def title(self) -> str:
        """Return what it is, in a line."""
        return f"{self.run.name}: {self.plan.stage}, {self.state}"

    def progress(self) -> str:
        """Return how far it is."""
        if self.curves.step is None:
            return "no step is reported yet"
        if self.plan.steps is None or self.share is None:
            return f"step {self.curves.step:,}"
        return f"step {self.curves.step:,} of {self.plan.steps:,}, {self.share:.1%}".replace("%", " %")

    def pace(self) -> str:
        """Return rates, time left, the share of waiting and the age of the last report."""
        parts = []
        if (samples := self.curves.newest("train/samples_per_second")) is not None:
            parts.append(f"{format_number(samples)} samples/s")
        if (steps := self.steps_per_second) is not None:
            parts.append(f"{format_number(steps)} steps/s")
        if (left := self.seconds_left) is not None:
            parts.append(f"{format_seconds(left)} left")
        if (waiting := self.curves.newest("train/waiting")) is not None:
            parts.append(f"{waiting:.1%} waiting".replace("%", " %"))
        if self.is_running and self.reported_seconds_ago is not None:
            parts.append(f"reported {format_seconds(round(self.reported_seconds_ago))} ago")
        return ", ".join(parts)

    def note(self) -> str:
        """Return who trains it, what is waited for, or how to go on; empty where there is nothing to say."""
        if self.is_running:
            who = f"by {'; '.join(self.writers)}"
            if self.curves.step is not None:
                return who
            first = f"; the first is at step {self.plan.log_every:,}" if self.plan.log_every else ""
            return f"{who}: no figures yet{first}"
        if self.state == "stopped":
            return f"nobody trains it; go on with --out {self.run} --resume auto"
        return "" if self.curves.step is not None else f"no figures: {METRICS} is absent or has no rows"


class Watch:
    """A run that is looked at again and again; each look reads what is new."""

    def __init__(self, run: Location) -> None:
        self.run = run
        self._file = MetricsFile(run / METRICS)
        self._config = b""
        self._plan = Plan()
        self._figures = Figures({})

    def look(self) -> Moment:
        """Return the run as it is now.

        Raises:
            ArtifactError: it is no run.
            DamagedError: a file of it is not what a training writes.
            StorageError: it cannot be read.
        """
        found = writers(self.run)
        self._read_plan()
        self._file.read(self._figures)
        curves, warmup = self._figures.curves, self._plan.warmup_steps
        if not found and not self._config and self._file.modified is None:
            raise ArtifactError(self._refusal())
        rows = readings(curves, warmup)
        said = warnings(rows, curves.by_name, warmup)
        if self._figures.warning:
            said.insert(0, self._figures.warning)
        if bad := self._file.bad_rows:
            said.append(f"{METRICS} has {bad:,} lines that are no rows of numbers; they are left out")
        modified = self._file.modified
        return Moment(
            self.run,
            self._plan,
            self._state(running=bool(found)),
            tuple(f"process {w.holder.process} on {w.holder.host}" if w.holder else str(w) for w in found),
            curves,
            rows,
            said,
            None if modified is None else max(0.0, time.time() - modified),
            newest_pictures(self.run),
        )

    def _state(self, *, running: bool) -> State:
        if running:
            return "running"
        if self._plan.steps is None:
            return "ended"
        return "finished" if (self._figures.curves.step or 0) >= self._plan.steps else "stopped"

    def _read_plan(self) -> None:
        place = self.run / RUN_CONFIG
        try:
            content = place.read_whole()
        except (FileNotFoundError, NotADirectoryError):
            return
        if content == self._config:
            return
        try:
            settings = read_yaml_mapping(content, str(place))
        except ConfigError as error:
            raise DamagedError(f"{place} is damaged: {error}") from error
        self._config, self._plan, self._figures.settings = content, Plan.of(settings), settings

    def _refusal(self) -> str:
        there = self.run.list()
        if not there and not self.run.exists():
            return f"{self.run} does not exist; expected the folder of a run, such as workspace/runs/NAME"
        holds = f"it holds {', '.join(there[:3])}{', …' if len(there) > 3 else ''}" if there else "it is empty"
        return (
            f"{self.run} is no run: neither {RUN_CONFIG} nor {METRICS} is there ({holds}); expected the folder that "
            "`deltactl train` writes to (--out), such as workspace/runs/NAME"
        )


def newest_pictures(run: Location) -> list[Location]:
    """Return the pictures of the newest evaluation during training that has any; at most `MOST_PICTURES`."""
    reports = [name for name in (run / EVALUATIONS).list() if name.partition("-")[0].isdecimal()]
    for name in sorted(reports, key=lambda name: int(name.partition("-")[0]), reverse=True)[:MOST_PICTURES]:
        folder = run / EVALUATIONS / name
        if pictures := [each for each in folder.list() if each.startswith("picture-") and each.endswith(".png")]:
            return [folder / each for each in pictures[:MOST_PICTURES]]
    return []
