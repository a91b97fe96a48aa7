"""Drives an evaluation: plan, fill the cache, draw some clips, evaluate all of them, publish the report.

Takes a data set and checkpoints, publishes `metrics.json`, the tables of `table.py`, pictures and a page. The clips go
to one process, or to one for each GPU, in tasks that do not depend on their number; tallies are added in the order of
the plan, so the numbers do not either. Stopped, it goes on from the cache; what was evaluated is evaluated again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deltactl.artifacts import Quarantined
from deltactl.claims import Claim, hold
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import labelled_set
from deltactl.devices import find_devices
from deltactl.evaluate.clips.sources import ClipTask, tasks_of
from deltactl.evaluate.plan import Plan, plan, settle
from deltactl.evaluate.protocol.memory import memory_faults
from deltactl.evaluate.protocol.networks import Networks, names_in_head
from deltactl.evaluate.protocol.tally import Tally
from deltactl.evaluate.protocol.worker import Loader, TaskEvaluator, TaskResult
from deltactl.evaluate.report.clip_pictures import ClipPictures, draw_clips, spread_clips
from deltactl.evaluate.report.files import Written, publish
from deltactl.evaluate.report.json_file import Numbers, metrics_json
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.locations import Location
from deltactl.progress import Progress, Say, Summary
from deltactl.removal import Consent, refuse, replaced
from deltactl.stages import BadTally, Stage
from deltactl.train.networks.rgb_head import RGBHead

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Report(Summary):
    """What an evaluation did, and what it came to."""

    folder: Location
    metrics: dict[str, Any] = field(default_factory=dict)
    """The content of `metrics.json`."""


def run(
    config: EvaluateConfig, say: Say, consent: Consent = refuse, *, networks: Mapping[str, nn.Module] | None = None
) -> Report:
    """Evaluate, publish the report and return its numbers; `say` takes sentences for people as the work goes on.

    `consent` is asked, before the long work, where an earlier report of something else would be overwritten.
    `networks`: those in memory, by the name of their option; they stand in for checkpoints, in one process.

    Raises:
        ArtifactError, CheckpointError, ConfigError, HubError: see `plan.plan`; before any long work begins.
        IdentityError, StorageError: see `cache.Cache`.
        ClaimedError: another process writes the report.
        TooManyBadError: more clips cannot be used than `max_bad` allows.
        ConfigError: the memory is full even for one crop.
    """
    in_memory = networks or {}
    config = settle(config, in_memory, say)
    smaller = f"--samples {max(1, config.samples // 2)} (now {config.samples}), a smaller --size (now {config.size})"
    with memory_faults(config.device, f"one crop of {config.size} px and its {config.samples} samples", smaller):
        planned = plan(config, in_memory)
        consent(replaced(planned.report, planned.identity))
        for note in planned.notes:
            say(note)
        for warning in planned.warnings:
            log.warning("%s", warning)
        loaded = Networks.load(planned.networks)
        rgb_head = None if planned.rgb_head is None else planned.rgb_head.load()
        with hold(planned.report) as claim:
            tasks, unusable = find_clips(planned, say)
            loader = Loader(config, planned.cache, planned.cached, planned.backbone.dim, loaded)
            # Before the long work, so that what stands in their way is known before it.
            pictures = draw(planned, loader, tasks, rgb_head) if config.pictures else []
            report = Report(unit="clips", folder=planned.report)
            totals = evaluate(loader, tasks, claim, report)
            quarantined = [*unusable, *totals.quarantined]
            numbers = Numbers.of(config, totals.tally, class_names(planned))
            report.metrics = metrics_json(
                config,
                numbers,
                quarantined=clips_among(quarantined),
                warnings=planned.warnings,
                costs=planned.costs,
                departures=planned.departures(totals.tally.clips, clips_among(quarantined)),
            )
            written = Written(report.metrics, numbers.sums, quarantined, pictures)
            report.add(bytes=publish(planned.report, config, planned.identity, written))
    return report


def find_clips(planned: Plan, say: Say) -> tuple[list[ClipTask], list[Quarantined]]:
    """Return the tasks of the clips to evaluate, and those that could not be used; fills the cache where it is used."""
    config, cache = planned.config, planned.cache
    if not planned.cached:
        units = [(unit.name, len(unit.items)) for unit in cache.plan.units]
        return tasks_of(units, config.limit), list(cache.plan.quarantined)
    cache.check_room(say)
    shards, _ = cache.fill(say)
    return tasks_of([(unit, shards.clips_in(unit)) for unit in shards.units], config.limit), cache.quarantined()


def draw(planned: Plan, loader: Loader, tasks: Sequence[ClipTask], rgb_head: nn.Module | None) -> list[ClipPictures]:
    """Return the pictures of some clips, drawn in this process."""
    config = planned.config
    chosen = spread_clips(tasks, config.pictures)
    loaded, rgb = loader.load(0), None
    if rgb_head is not None:  # which undoes the backbone's normalisations
        assert isinstance(rgb_head, RGBHead)
        rgb = rgb_head.to(loaded.device), Backbone.load(config.backbone, loaded.device, torch.float32)
    names = class_names(planned)
    clips = []
    with Progress(len(chosen), unit="clips", label="draw") as progress:
        for clip in draw_clips(config, loaded, chosen, rgb, names):
            clips.append(clip)
            progress.advance()
    return clips


def class_names(planned: Plan) -> tuple[str, ...]:
    """Return the names of the classes by id, as far as the data set or the head knows them."""
    root = Location.of(planned.cache.plan.root)
    return labelled_set(planned.config.dataset).class_names(root) or names_in_head(planned.config.head)


def evaluate(loader: Loader, tasks: Sequence[ClipTask], claim: Claim, summary: Summary) -> Totals:
    """Return what all tasks come to, and count them in `summary`."""
    config = loader.config
    processes = process_count(config)
    totals = Totals(tasks, config.max_bad, summary)
    Stage(f"evaluate {labelled_set(config.dataset).name}", summary, claim).make(
        TaskEvaluator(loader, processes),
        tasks,
        clips_in=lambda task: task.clips,
        found=lambda _: None,
        count=totals.add,
        workers=min(processes, len(tasks)),
    )
    summary.seconds = time.monotonic() - summary.began
    return totals


def process_count(config: EvaluateConfig) -> int:
    """Return how many processes share the clips; 0 for this one alone."""
    if config.workers is not None:
        return config.workers
    devices = len(find_devices(config.device))
    return devices if devices > 1 else 0


class Totals:
    """What the results of all tasks come to; those that come early wait for their turn in the plan."""

    def __init__(self, tasks: Sequence[ClipTask], max_bad: float, summary: Summary) -> None:
        self.tally = Tally()
        self.quarantined: list[Quarantined] = []
        self._summary = summary
        self._awaited = deque(task.name for task in tasks)
        self._early: dict[str, TaskResult] = {}
        total = sum(task.clips for task in tasks)
        self._bad = BadTally("clips", total, max_bad, "mend them, or allow more with --max-bad")

    def add(self, result: TaskResult) -> None:
        """Add the result of one task; TooManyBadError once more clips cannot be used than may be."""
        self._early[result.name] = result
        while self._awaited and self._awaited[0] in self._early:
            self._add(self._early.pop(self._awaited.popleft()))

    def _add(self, result: TaskResult) -> None:
        self.tally.add(result.tally)
        self._summary.add(done=result.tally.clips, quarantined=len(result.quarantined))
        before = clips_among(self.quarantined)
        self.quarantined += result.quarantined
        self._bad.add(result.quarantined, clips_among(self.quarantined) - before)
        self._bad.check()


def clips_among(quarantined: Sequence[Quarantined]) -> int:
    """Return how many clips these are: one can be there under each of its crops."""
    return len({entry.source for entry in quarantined})
