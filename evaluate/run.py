"""Drives an evaluation: check everything, make what is missing, evaluate clip by clip, publish the report.

In come a data set and checkpoints, out come `metrics.json`, the tables of `table.py`, pictures and a page. The clips go
to one process, or to one for each GPU, in tasks that do not depend on their number; tallies are added in the order of
the plan, so the numbers do not either. Stopped, it goes on from the cache; what was evaluated is evaluated again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deltactl.artifacts import (
    Identity,
    Quarantined,
    check_replaceable,
    default_location,
)
from deltactl.claims import hold
from deltactl.configs.base import with_environment
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import labelled_set
from deltactl.devices import device_of, dtype_of, find_devices
from deltactl.engine import run_tasks
from deltactl.evaluate.cache import Cache, Say
from deltactl.evaluate.clip_pictures import ClipPictures, draw_clips, spread_clips
from deltactl.evaluate.clips import CachedClips, ClipSource, ClipTask, StreamedClips, tasks_of
from deltactl.evaluate.futures import samples_at_once
from deltactl.evaluate.memory import memory_faults
from deltactl.evaluate.networks import (
    Networks,
    check_uses,
    left_out,
    load_networks,
    load_rgb_head,
    names_in_head,
)
from deltactl.evaluate.published import Protocol
from deltactl.evaluate.report_files import KIND, publish
from deltactl.evaluate.report_json import metrics_json
from deltactl.evaluate.tally import Tally
from deltactl.evaluate.worker import Equipment, EvaluateWorker, TaskResult, crops_at_once
from deltactl.featurize.backbone import Backbone
from deltactl.ingest.units import Plan
from deltactl.locations import Location
from deltactl.progress import Progress, Summary
from deltactl.removal import Consent, refuse, replaced
from deltactl.stages import BadTally
from deltactl.train.known_kinds import kind_of
from deltactl.train.rgb_head import RGBHead
from deltactl.train.trained import as_trained, strangers

log = logging.getLogger(__name__)

CHECKPOINTS = ("tokenizer", "world", "dinoworld", "head", "rgb_head")
PREDICTORS = ("world", "tokenizer", "dinoworld", "head")
"""The networks whose training says what size frames have, the first that knows."""


@dataclass(frozen=True)
class Report:
    """What an evaluation came to."""

    folder: Location
    metrics: dict[str, Any]
    """The content of `metrics.json`."""
    summary: Summary


def run(
    config: EvaluateConfig, say: Say, consent: Consent = refuse, *, networks: Mapping[str, nn.Module] | None = None
) -> Report:
    """Evaluate, publish the report and return its numbers; `say` takes sentences for people as the work goes on.

    `consent` is asked, before the long work, where an earlier report of something else would be overwritten.
    `networks`: those in memory, by the name of their option; they stand in for checkpoints, in one process.

    Before any long work begins: ArtifactError where `out` holds something else; ConfigError, CheckpointError,
    IdentityError, StorageError: see `cache` and `networks`. TooManyBadError once more clips cannot be used than
    `max_bad` allows; ConfigError where the memory is full even for one crop.
    """
    check_uses(config)
    config = with_environment(config)
    networks = networks or {}
    config, _ = as_trained(config, _checkpoints(config, PREDICTORS, networks), say)
    smaller = f"--samples {max(1, config.samples // 2)} (now {config.samples}), a smaller --size (now {config.size})"
    with memory_faults(config.device, f"one crop of {config.size} px and its {config.samples} samples", smaller):
        return _run(config, say, consent, networks)


def _checkpoints(
    config: EvaluateConfig, names: Sequence[str], in_memory: Mapping[str, nn.Module]
) -> list[tuple[str, str | None]]:
    """Return options and the checkpoints that they name; networks in memory have none."""
    return [(name.replace("_", "-"), getattr(config, name)) for name in names if name not in in_memory]


def _run(config: EvaluateConfig, say: Say, consent: Consent, in_memory: Mapping[str, nn.Module]) -> Report:
    if config.out:
        check_replaceable(Location.of(config.out), KIND)
    backbone = Backbone.load(config.backbone, "cpu", torch.float32)
    rows, columns = backbone.grid(config.size, config.size)
    networks = load_networks(config, backbone.dim, in_memory)
    rgb = load_rgb_head(config.rgb_head, backbone) if config.rgb_head and config.pictures else None
    cache = Cache.plan_of(config, patches=rows * columns, dim=backbone.dim)
    identity = identity_of(config, backbone, networks, cache.plan)
    name = f"{cache.features.name}-{identity.hash()[:8]}"
    folder = Location.of(config.out) if config.out else default_location("reports", name)
    consent(replaced(folder, identity))
    for note in left_out(config):
        say(note)
    given = _checkpoints(config, CHECKPOINTS, in_memory)
    warnings = strangers(given, {**networks.hashes, "backbone": backbone.content_hash}, config.size)
    for note in warnings:
        log.warning("%s", note)
    cached = config.cache and not (config.limit and not cache.complete)
    with hold(folder):
        if config.cache and not cached:
            say(f"the cache is not complete: the first {config.limit} clips are streamed, and nothing is kept")
        if cached:
            cache.check_room(say)
            shards, _ = cache.fill(say)
            tasks = tasks_of(((unit, shards.clips_in(unit)) for unit in shards.units), config.limit)
        else:
            tasks = tasks_of(((unit.name, len(unit.items)) for unit in cache.plan.units), config.limit)
        equip = Equip(config, cache, cached, backbone.dim, networks)
        # Before the long work, so that what stands in their way is known before it.
        clips = _draw(config, equip, tasks, rgb, backbone) if config.pictures else []
        bad = cache.quarantined() if cached else list(cache.plan.quarantined)
        worker = EvaluateWorker(config, equip, process_count(config))
        tally, quarantined, summary = _evaluate(config, worker, tasks, bad)
        bad_clips = _clips(quarantined)
        metrics = metrics_json(
            config.dataset,
            config.size,
            config,
            tally,
            quarantined=bad_clips,
            warnings=warnings,
            departures=departures(config, tally.clips, bad_clips, backbone, networks),
        )
        summary.add(bytes=publish(folder, config, identity, metrics, quarantined, clips))
    return Report(folder, metrics, summary)


def process_count(config: EvaluateConfig) -> int:
    """Return how many processes share the clips; 0 for this one alone."""
    if config.workers is not None:
        return config.workers
    devices = len(find_devices(config.device))
    return devices if devices > 1 else 0


@dataclass
class Equip:
    """Loads what a process needs onto its device; picklable, leaving behind what is loaded already."""

    config: EvaluateConfig
    cache: Cache
    cached: bool
    dim: int
    networks: Networks | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "networks": None}

    def __call__(self, slot: int) -> Equipment:
        """Return the equipment of worker number `slot`."""
        config = self.config
        device = device_of(config.device, slot)
        dtype = dtype_of(config.precision, device)
        source: ClipSource
        if self.cached:
            shards, store = self.cache.open()
            source, black, grid = CachedClips(shards, store, config.size), store.black, store.grid
        else:
            backbone = Backbone.load(config.backbone, device, dtype)
            self.cache.plan.maker.start(slot)
            source = StreamedClips(self.cache.plan, backbone, config.size)
            black, grid = backbone.black_features(config.size, config.size), backbone.grid(config.size, config.size)
        networks = self.networks or load_networks(config, self.dim)
        networks.to(device)
        black = black.to(device)
        crops = crops_at_once(device, black, config)
        samples = samples_at_once(device, *black.shape)
        return Equipment(source, networks.models, networks.head, black, grid, device, dtype, crops, samples)


def _draw(
    config: EvaluateConfig, equip: Equip, tasks: list[ClipTask], rgb: RGBHead | None, backbone: Backbone
) -> list[ClipPictures]:
    """Return the pictures of some clips, drawn in this process."""
    chosen = spread_clips(tasks, config.pictures)
    equipment = equip(0)
    with_backbone = None if rgb is None else (rgb.to(equipment.device), backbone.to(equipment.device))
    names = labelled_set(config.dataset).class_names(Location.of(equip.cache.plan.root)) or names_in_head(config.head)
    clips = []
    with Progress(len(chosen), unit="clips", label="draw") as progress:
        for clip in draw_clips(config, equipment, chosen, with_backbone, names):
            clips.append(clip)
            progress.advance()
    return clips


def _evaluate(
    config: EvaluateConfig, worker: EvaluateWorker, tasks: list[ClipTask], known: list[Quarantined]
) -> tuple[Tally, list[Quarantined], Summary]:
    """Return the tally of all tasks, and the clips that could not be used: `known`, and those found only now."""
    total = sum(task.clips for task in tasks)
    tally, found, summary = Tally(), list[Quarantined](), Summary(unit="clips")
    bad = BadTally("clips", total, config.max_bad, "mend them, or allow more with --max-bad")
    with Progress(total, unit="clips", label=f"evaluate {config.dataset}") as progress:
        results = run_tasks(worker, tasks, workers=min(worker.processes, len(tasks)))
        for task, result in in_order(tasks, results):
            tally.add(result.tally)
            before = _clips(found)
            found += result.quarantined
            bad.add(result.quarantined, _clips(found) - before)
            summary.add(done=result.tally.clips, quarantined=len(result.quarantined), parts=result.seconds)
            progress.advance(task.clips)
            bad.check()
    summary.seconds = time.monotonic() - summary.began
    return tally, [*known, *found], summary


def in_order(
    tasks: list[ClipTask], results: Iterable[tuple[ClipTask, TaskResult]]
) -> Iterator[tuple[ClipTask, TaskResult]]:
    """Yield results in the order of their tasks, holding back those that come early."""
    early: dict[ClipTask, TaskResult] = {}
    awaited = iter(tasks)
    following = next(awaited, None)
    for task, result in results:
        early[task] = result
        while following in early:
            yield following, early.pop(following)
            following = next(awaited, None)


def _clips(quarantined: list[Quarantined]) -> int:
    """Return how many clips these are: one can be there under each of its crops."""
    return len({entry.source for entry in quarantined})


def departures(
    config: EvaluateConfig, clips: int, quarantined: int, backbone: Backbone, networks: Networks
) -> list[str]:
    """Return in what the evaluation is not the published one."""
    given = {**vars(networks.models), "head": networks.head}
    found = {}
    for name, network in given.items():
        if network is not None:
            found[name] = kind_of(network).differences(network.config)
    return Protocol(
        dataset=config.dataset,
        size=config.size,
        context=config.context,
        samples=config.samples,
        encoding=config.encoding,
        clips=clips,
        quarantined=quarantined,
        backbone_width=backbone.dim,
        networks=found,
        backbone_family=backbone.family.name,
    ).departures()


def identity_of(config: EvaluateConfig, backbone: Backbone, networks: Networks, plan: Plan) -> Identity:
    """Return what decides the numbers of a report: data, weights and settings."""
    names = ("horizons", "context", "samples", "encoding", "seed", "extras", "limit")
    values = config.model_dump(mode="json", include=set(names))
    settings = {name: values[name] for name in names}
    weights = {"backbone": backbone.content_hash, **networks.hashes}
    return Identity(KIND, {"clips": plan.identity, "weights": weights, **settings})
