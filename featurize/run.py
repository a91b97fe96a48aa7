"""Drives a featurize: plan, claim the store, make the missing groups, and close with index and quarantine.

In come shards and a frozen backbone, out come groups of features and a `Summary`. One job is one view of one shard,
published whole or not at all, so a featurize can be killed at any moment and run again, in parts on several machines:
finished groups are kept, and with equal provenance every group comes out the same, byte for byte. (What differs from
run to run, time, host and command, stands in `artifact.json` alone, as of the first run.)

One process feeds one device; several GPUs get a process each, which runs a few jobs at a time so that the pipeline does
not run dry between them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from deltactl.artifacts import QUARANTINE, Identity, Quarantined, make_provenance, open_artifact, read_header
from deltactl.claims import Share, hold, share
from deltactl.configs.engine import EngineConfig
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.follow import Fact, follow
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.devices import find_devices
from deltactl.engine import batched, run_tasks
from deltactl.errors import ArtifactError, DamagedError, DeltactlError, StorageError, TooManyBadError
from deltactl.featurize.compute import Computer
from deltactl.featurize.events import Job, JobResult
from deltactl.featurize.finish import drop_views, views_to_drop
from deltactl.featurize.pipeline import LIBRARIES, Decoder, Pipeline, Settings
from deltactl.featurize.plan import Plan, crops_of, find_shards, is_of_shard, make_plan, store_location
from deltactl.featurize.precision import offer_bfloat16
from deltactl.featurize.state import state_of, state_there
from deltactl.featurize.views import listed_views, parse_view_numbers
from deltactl.featurize.writer import write_root
from deltactl.generations import check_fits
from deltactl.ingest.record import unfinished_note
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.progress import Progress, Summary, counted, format_bytes
from deltactl.removal import Consent, refuse

log = logging.getLogger(__name__)

MAX_JOBS_PER_TASK = 8
EngineConfigT = TypeVar("EngineConfigT", FeaturizeConfig, TokenizeConfig)


@dataclass(frozen=True)
class TaskResult:
    """What became of the jobs of one task, and how long the stages of its pipeline were busy."""

    jobs: tuple[JobResult, ...]
    seconds: dict[str, float] = field(default_factory=dict)


class FeaturizeWorker:
    """The engine worker of a featurize: one device, one task is a few jobs."""

    def __init__(self, config: FeaturizeConfig, devices: list[str], workers: int, plan: Plan) -> None:
        self._config = config
        self._devices = devices
        self._workers = workers
        self._shards = plan.shards.root
        self._root = plan.root
        self._settings = _settings(config, plan, devices[0])
        self._pipeline: Pipeline | None = None

    def start(self, slot: int) -> None:
        """Load the backbone onto this process's device."""
        import torch

        device = self._devices[slot % len(self._devices)]
        if device == "cpu":
            torch.set_num_threads(threads_of_worker(self._config, self._workers))
        computer = load_computer(self._config, device)
        self._pipeline = Pipeline(ShardSet.open(self._shards), self._root, computer, self._settings)

    def run(self, jobs: tuple[Job, ...]) -> TaskResult:
        """Make and publish the groups of a few jobs."""
        assert self._pipeline is not None, "start comes first"
        results = tuple(self._pipeline.run(jobs))
        return TaskResult(results, self._pipeline.seconds)


def featurize(config: FeaturizeConfig, consent: Consent = refuse) -> Summary:
    """Make the views of a store that `config` asks for, and return what was done.

    `consent` is asked before views are dropped. ConfigError and IdentityError where that cannot be, StorageError where
    the disk is full, TooManyBadError where more than `config.max_bad` of the clips could not be used (what was written
    is kept and indexed).
    """
    started = time.monotonic()
    shards = find_shards(config.shards)
    config, devices, workers = find_workers(settled(config, shards))
    computer = load_computer(config, devices[0] if workers == 0 else "cpu")
    plan = plan_with(config, shards, computer)
    provenance = _provenance(config, shards, devices)
    if config.drop_views:
        with hold(plan.root):
            open_artifact(plan.root, plan.identity, provenance)
            check_fits(plan.root, plan.identity, plan.generations)
            drop_views(plan.root, parse_view_numbers(config.drop_views), consent)
        plan = plan_with(config, shards, computer)
    with share(plan.root) as work:
        for difference in open_artifact(plan.root, plan.identity, provenance):
            log.warning("%s: %s", plan.root, difference)
        check_fits(plan.root, plan.identity, plan.generations)
        summary = _make(config, plan, computer, devices, workers, work)
    summary.seconds = time.monotonic() - started
    return summary


def _make(
    config: FeaturizeConfig, plan: Plan, computer: Computer, devices: list[str], workers: int, work: Share
) -> Summary:
    """Make the groups of a plan that no other process makes, and close the store once all are there."""
    shards = plan.shards
    _check_space(plan)
    write_black(plan.root, computer)
    if (note := unfinished_note(shards)) is not None:
        log.warning("%s (features are made of those that are there)", note)
    summary = Summary(unit="crops", skipped=plan.clips_there)
    failed: list[Quarantined] = []
    try:
        with Progress(plan.clips, unit="crops", label="featurize") as progress:
            if workers == 0:
                results = _run_here(plan, computer, config, summary, progress, work)
            else:
                worker = FeaturizeWorker(config, devices, workers, plan)
                results = _run_workers(plan, worker, workers, config, summary, progress, work)
            _collect(results, plan, config, summary, failed)
    except BaseException:
        # What is whole is usable at once, also when the next run never comes.
        with contextlib.suppress(DeltactlError):
            plan.finish(failed)
        raise
    summary.state = state_of(plan.root, plan.finish(failed))
    return summary


def settled(config: FeaturizeConfig, shards: ShardSet) -> FeaturizeConfig:
    """Return settings whose size is that of the shards, unless one was set."""
    stored = shards.identity.integer("size") if "size" in shards.identity.values else config.size
    config, differences = follow(config, [Fact("size", stored, str(shards.root))])
    if differences and config.size > stored:
        log.warning("%s; frames of training video are enlarged", differences[0])
    return config


def drop(config: FeaturizeConfig, consent: Consent = refuse) -> list[str]:
    """Only remove the views that `config.drop_views` names; return what to tell. Needs no backbone."""
    root, views = _to_drop(config)
    with hold(root):
        left = drop_views(root, views, consent)
    return [f"{root}: dropped {listed_views(views)}; {listed_views(left)} left"]


def drop_dry_run(config: FeaturizeConfig) -> list[str]:
    """Return what `drop` would remove, with sizes."""
    root, views = _to_drop(config)
    return [f"would remove {removal}" for removal in views_to_drop(root, views)]


def _to_drop(config: FeaturizeConfig) -> tuple[Location, tuple[int, ...]]:
    """Return the store and the views that are to go; ArtifactError where it is none."""
    assert config.drop_views is not None, "nothing to drop"
    if config.out is None:
        shards = find_shards(config.shards)
        root = store_location(settled(config, shards), shards.root.name)
    else:
        root = Location.of(config.out)
    header = read_header(root)
    if header.identity.kind != "features":
        raise ArtifactError(f"{root} holds {header.identity.kind}; a feature store was expected")
    return root, parse_view_numbers(config.drop_views)


def dry_run(config: FeaturizeConfig) -> Iterator[str]:
    """Yield what a featurize would do and cost; the backbone is loaded, and timed on two batches.

    Raises at the end what would stop it at once: StorageError where there is no room for it.
    """
    shards = find_shards(config.shards)
    config = settled(config, shards)
    devices = find_devices(config.device)
    computer = load_computer(config, devices[0])
    plan = plan_with(config, shards, computer)
    check_fits(plan.root, plan.identity, plan.generations)
    if (note := unfinished_note(shards)) is not None:
        yield f"warning: {note}"
    freed = 0
    if config.drop_views:
        removals = views_to_drop(plan.root, parse_view_numbers(config.drop_views))
        freed = sum(removal.bytes for removal in removals)
        yield from (f"would remove {removal}" for removal in removals)
    rate = computer.frames_per_second()
    offer = offer_bfloat16(config, plan, computer, rate, load_computer)
    yield from plan.lines(rate * len(devices)) + ([] if offer is None else [offer])
    if (state := state_there(plan.root)) is not None:
        yield state
    _check_space(plan, freed)


def remake(
    config: FeaturizeConfig,
    root: Location,
    shards: ShardSet,
    computer: Computer,
    identity: Identity,
    jobs: tuple[Job, ...],
) -> list[Quarantined]:
    """Make groups of a store again, in its own settings; return the shards that could not be used."""
    crops = crops_of(identity)
    decoder = choose_decoder(config, str(computer.device), crops)
    frames = identity.integer("frames")
    settings = Settings(crops, config.seed, frames, identity, config.decode_threads, decoder)
    results = list(Pipeline(shards, root, computer, settings).run(jobs))
    return [entry for result in results if result.failed for entry in result.quarantined]


def write_black(root: Location, computer: Computer) -> None:
    """Write the features of an all-zero frame, which stand once in a store, unless they are there."""
    rows, columns = computer.grid
    patch = computer.backbone.patch_size
    write_root(root, computer.backbone.black_features(rows * patch, columns * patch).cpu().numpy())


def plan_with(config: FeaturizeConfig, shards: ShardSet, computer: Computer) -> Plan:
    """Return the plan of a featurize with a backbone that is loaded."""
    backbone = computer.backbone
    return make_plan(config, shards, backbone.content_hash, computer.grid, backbone.dim)


def load_computer(config: FeaturizeConfig, device: str) -> Computer:
    """Load the backbone of the settings onto a device."""
    return Computer.load(
        config.backbone,
        config.size,
        device=device,
        precision=config.precision,
        batch_size=config.batch_size,
        compiled=config.compile,
    )


def find_workers(config: EngineConfigT) -> tuple[EngineConfigT, list[str], int]:
    """Return the settings with the share of a worker filled in, the devices to use, and the number of workers.

    0 workers stand for this process. On Ray a worker sees only the GPU that it was given, so that is `cuda:0` to it.
    """
    if config.engine == "local":
        devices = find_devices(config.device)
        return config, devices, config.workers if config.workers is not None else len(devices) if devices[1:] else 0
    from deltactl.engine.ray import cores_per_gpu, worker_count

    cores = cores_per_gpu(config.address) if config.device == "auto" or config.device.startswith("cuda") else None
    gpus = config.worker_gpus if config.worker_gpus is not None else 0.0 if cores is None else 1.0
    cpus = config.worker_cpus or max(1.0, (cores or 0.0) * gpus)
    threads = config.decode_threads or max(1, int(cpus))
    config = config.model_copy(update={"worker_gpus": gpus, "worker_cpus": cpus, "decode_threads": threads})
    return config, ["cuda:0" if gpus else "cpu"], worker_count(config)


def threads_of_worker(config: EngineConfig, workers: int) -> int:
    """Return how many CPU cores each of so many workers may use."""
    if config.engine == "ray":
        return max(1, int(config.worker_cpus or 1))
    return max(1, (os.cpu_count() or 1) // max(workers, 1))


def _collect(
    results: Iterator[JobResult], plan: Plan, config: FeaturizeConfig, summary: Summary, failed: list[Quarantined]
) -> None:
    """Count what the jobs did; TooManyBadError as soon as more clips are bad than may be."""
    bad = 0
    for result in results:
        bad += plan.shards.clips_in(result.job.unit) if result.failed else len(result.quarantined)
        failed += result.quarantined if result.failed else ()
        summary.add(done=result.written, quarantined=len(result.quarantined), bytes=result.bytes)
        for entry in result.quarantined:
            log.warning("quarantined %s: %s", entry.source, entry.reason)
        if bad > config.max_bad * plan.clips:
            raise TooManyBadError(
                f"{bad:,} of {counted(plan.clips, 'crops')} could not be used, more than --max-bad "
                f"{config.max_bad:g} allows; the last is {result.quarantined[-1].source} "
                f"({result.quarantined[-1].reason}), all are in {plan.root / QUARANTINE}; what was written is kept"
            )


def _rounds(plan: Plan, summary: Summary, progress: Progress, work: Share) -> Iterator[Iterator[Job]]:
    """Yield the jobs that this process is to do, see `claims`; those that others did are counted."""

    def is_made(job: Job) -> bool:
        try:
            return is_of_shard(plan.root, job.view, job.unit, plan.shards)
        except DamagedError:
            return False

    def passed(job: Job) -> None:
        summary.add(skipped=plan.shards.clips_in(job.unit))
        progress.advance(plan.shards.clips_in(job.unit))

    return work.rounds(plan.jobs, name=lambda job: job.name, is_made=is_made, passed=passed)


def _run_here(
    plan: Plan, computer: Computer, config: FeaturizeConfig, summary: Summary, progress: Progress, work: Share
) -> Iterator[JobResult]:
    pipeline = Pipeline(plan.shards, plan.root, computer, _settings(config, plan, str(computer.device)))
    for jobs in _rounds(plan, summary, progress, work):
        for result in pipeline.run(jobs, progress.advance):
            work.done(result.job.name)
            yield result
        summary.add(parts=pipeline.seconds)


def _run_workers(
    plan: Plan,
    worker: FeaturizeWorker,
    workers: int,
    config: FeaturizeConfig,
    summary: Summary,
    progress: Progress,
    work: Share,
) -> Iterator[JobResult]:
    size = max(1, min(MAX_JOBS_PER_TASK, len(plan.jobs) // (4 * workers)))
    for jobs in _rounds(plan, summary, progress, work):
        for _, result in run_tasks(worker, batched(jobs, size), workers=workers, engine=config):
            summary.add(parts=result.seconds)
            for job in result.jobs:
                work.done(job.job.name)
                progress.advance(plan.shards.clips_in(job.job.unit))
                yield job


def choose_decoder(config: FeaturizeConfig, device: str, crops: str) -> Decoder:
    """Return what decodes frames on this device: DALI on a GPU, where it is installed and frames are JPEGs.

    Frames of evaluation sets (square crops) are PNGs, which DALI decodes on the CPU as well.
    """
    if config.decoder != "auto":
        return config.decoder
    there = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    return "dali" if device.startswith("cuda") and crops == "augment" and there else "opencv"


def _settings(config: FeaturizeConfig, plan: Plan, device: str) -> Settings:
    decoder = choose_decoder(config, device, plan.crops)
    return Settings(plan.crops, config.seed, plan.layout.frames, plan.identity, config.decode_threads, decoder)


def _provenance(config: FeaturizeConfig, shards: ShardSet, devices: list[str]) -> dict[str, object]:
    return make_provenance(
        LIBRARIES,
        backbone=config.backbone,
        shards=str(shards.root),
        device=devices[0].partition(":")[0],
        precision=config.precision,
        batch_size=config.batch_size or "auto",
        decoder=config.decoder,
    )


def _check_space(plan: Plan, freed: int = 0) -> None:
    free = plan.root.free_bytes()
    if free is not None and free + freed < plan.bytes:
        raise StorageError(
            f"{plan.root} needs {format_bytes(plan.bytes)} more, and {format_bytes(free)} are free there; make room, "
            "choose another --out, or fewer --views"
        )
