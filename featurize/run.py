"""Drives a featurize: shards, or videos, and a frozen backbone in, groups of features out.

`fill_store` and what follows it drive tokenize, too, which fills a store of tokens. One process feeds one device;
several GPUs get a process each, which runs a few jobs at a time so that its pipeline does not run dry between them. A
job is one view of one shard and makes one group, published whole or not at all, so a store can be filled by several
processes at once, in parts on several machines, and after a stop: finished groups are kept, and with equal provenance
every group comes out the same, byte for byte. (What differs from run to run, time, host and command, stands in
`artifact.json` alone, as of the first run.)
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from deltactl.artifacts import QUARANTINE, Quarantined, make_provenance, open_artifact, read_header
from deltactl.claims import hold
from deltactl.configs.engine import EngineConfig
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.devices import find_devices
from deltactl.errors import ArtifactError
from deltactl.featurize.backbones.precision import offer_bfloat16
from deltactl.featurize.describe import state_of, state_there
from deltactl.featurize.loading import black_frame, load_computer, load_pipeline
from deltactl.featurize.origins import find_origin
from deltactl.featurize.pipeline.events import Job, JobResult, Overflow
from deltactl.featurize.pipeline.fill import LIBRARIES
from deltactl.featurize.pipeline.pipeline import decode_threads
from deltactl.featurize.pipeline.read import ClipReader
from deltactl.featurize.plan import StorePlan, follow_size, plan, store_location
from deltactl.featurize.store.finish import drop_views, views_to_drop
from deltactl.featurize.store.layout import LARGEST
from deltactl.featurize.store.packing import Packing
from deltactl.featurize.store.writer import write_root
from deltactl.featurize.views import listed_views, parse_view_numbers
from deltactl.generations import check_fits
from deltactl.locations import Location
from deltactl.progress import Summary, counted
from deltactl.removal import Consent, refuse
from deltactl.stages import BadTally, check_room, open_stage

log = logging.getLogger(__name__)

JOBS_PER_TASK = 8
NAMED_CHANNELS = 4
"""Channels that a warning of numbers beyond a store's type names."""
StoreConfig = TypeVar("StoreConfig", FeaturizeConfig, TokenizeConfig)


def run(config: FeaturizeConfig, consent: Consent = refuse) -> Summary:
    """Make the views of a store that `config` asks for, and return what was done.

    `consent` is asked before views are dropped. Raises as `plan` and `fill_store`.
    """
    summary = Summary(unit="crops")
    planned = plan(config)
    config, devices, workers = find_workers(planned.config)
    provenance = make_provenance(
        LIBRARIES,
        backbone=config.backbone,
        **planned.origin.provenance,
        device=devices[0].partition(":")[0],
        precision=config.precision,
        batch_size=config.batch_size or "auto",
        decoder=config.decoder,
    )
    if config.drop_views:
        with hold(planned.root):
            open_artifact(planned.root, planned.identity, provenance)
            check_fits(planned.root, planned.identity, planned.generations)
            drop_views(planned.root, parse_view_numbers(config.drop_views), consent)
    if (note := planned.origin.unfinished) is not None:
        log.warning("%s (features are made of those that are there)", note)
    black = black_frame(config, planned.root)
    reader, frames = planned.origin.reader(len(planned.views)), planned.origin.identity.integer("frames")
    config = share_decoders(config, reader, devices[0], workers)
    what = (frames, planned.root, planned.identity, planned.crops)
    load = partial(load_pipeline, config, reader, *what, carried=planned.layout.carried)
    maker = GroupMaker(load, devices, threads_of_worker(config, workers))
    return fill_store("featurize", config, planned, maker, workers, provenance, black=black, summary=summary)


def dry_run(config: FeaturizeConfig) -> Iterator[str]:
    """Yield what a featurize would do and cost; the backbone is loaded, and timed on two batches.

    Raises:
        StorageError: there is no room for it; raised at the end.
    """
    planned = plan(config)
    config, devices = planned.config, find_devices(config.device)
    computer = load_computer(config, devices[0])
    check_fits(planned.root, planned.identity, planned.generations)
    if (note := planned.origin.unfinished) is not None:
        yield f"warning: {note}"
    freed = 0
    if config.drop_views:
        removals = views_to_drop(planned.root, parse_view_numbers(config.drop_views))
        freed = sum(removal.bytes for removal in removals)
        yield from (f"would remove {removal}" for removal in removals)
    rate = computer.frames_per_second()
    offer = offer_bfloat16(config, planned, computer, rate, load_computer)
    yield from planned.lines(rate * len(devices)) + ([] if offer is None else [offer])
    if (state := state_there(planned.root)) is not None:
        yield state
    check_space(planned, freed)


def drop(config: FeaturizeConfig, consent: Consent = refuse) -> list[str]:
    """Only remove the views that `config.drop_views` names; return what to tell. Needs no backbone.

    Raises:
        ArtifactError: there is no feature store.
        ClaimedError: another process writes there.
        ConfigError: the store has no such view, or nobody agrees.
    """
    root, views = _to_drop(config)
    with hold(root):
        left = drop_views(root, views, consent)
    return [f"{root}: dropped {listed_views(views)}; {listed_views(left)} left"]


def drop_dry_run(config: FeaturizeConfig) -> list[str]:
    """Return what `drop` would remove, with sizes."""
    root, views = _to_drop(config)
    return [f"would remove {removal}" for removal in views_to_drop(root, views)]


def _to_drop(config: FeaturizeConfig) -> tuple[Location, tuple[int, ...]]:
    """Return the store and the views that are to go.

    Raises:
        ArtifactError: it is no feature store.
    """
    assert config.drop_views is not None, "nothing to drop"
    if config.out is None:
        found = find_origin(config.places, config)
        root = store_location(follow_size(config, found), found)
    else:
        root = Location.of(config.out)
    header = read_header(root)
    if header.identity.kind != "features":
        raise ArtifactError(f"{root} holds {header.identity.kind}; a feature store was expected")
    return root, parse_view_numbers(config.drop_views)


# --- filling a store -------------------------------------------------------------------------------------------------


def fill_store(
    label: str,
    config: FeaturizeConfig | TokenizeConfig,
    plan: StorePlan,
    maker: GroupMaker,
    workers: int,
    provenance: Mapping[str, Any],
    *,
    black: Float32[np.ndarray, "patch dim"] | None,
    summary: Summary,
) -> Summary:
    """Make the groups of a plan that no other process makes, index those that are there, and return what was done.

    `workers` is the number of processes, 0 for this one alone; `black` are the features of an all-zero frame, which
    stand once in a store of features, or None where they are there. Groups are indexed after an error, too.

    Raises:
        ClaimedError, IdentityError: see `stages.open_stage`.
        StorageError: there is no room, or the disk became full.
        TooManyBadError: more than `config.max_bad` of the clips cannot be used.
    """
    summary.add(skipped=plan.clips_there)
    failed: list[Quarantined] = []
    overflows = OverflowTally(plan.layout.dtype)
    kept = f"all are in {plan.root / QUARANTINE}; what was written is kept"
    bad = BadTally("crops", plan.clips, config.max_bad, kept)
    told: set[str] = set()

    packing = Packing(plan.root, plan.layout, plan.units, [(job.view, job.unit) for job in plan.jobs])

    def count(result: JobResult) -> None:
        packing.passed(result.job.view, result.job.unit)
        if not result.made:
            summary.add(skipped=result.clips)
            return
        summary.add(done=result.written, quarantined=len(result.quarantined), bytes=result.bytes)
        told_once: set[str] = set()
        if result.overflow is not None:
            overflows.add(result.overflow)
            told_once.update(result.overflow.sources)
            bad.remedy = f"{overflows.note()}; {kept}"
        for entry in result.quarantined:
            if result.job.footage is not None and entry.source not in told_once:
                if entry.reason not in told:  # which names the video, of which no view of a clip can be made
                    log.warning("quarantined %s", entry.reason)
                told.add(entry.reason)
            elif entry.source not in told_once:
                log.warning("quarantined %s: %s", entry.source, entry.reason)
        failed.extend(result.quarantined if result.failed else ())
        bad.add(result.quarantined, plan.clips_in(result.job) if result.failed else None)
        bad.check()

    with open_stage(
        label,
        plan.root,
        plan.identity,
        provenance,
        summary=summary,
        generations=plan.generations,
        finish=lambda _: state_of(plan.root, plan.finish(failed)),
    ) as stage:
        check_space(plan)
        plan.begin()
        write_root(plan.root, black)
        with contextlib.closing(maker):
            stage.make(
                maker,
                plan.jobs,
                clips_in=plan.clips_in,
                found=plan.found,
                count=count,
                workers=workers,
                at_once=JOBS_PER_TASK,
                engine=config,
            )
    if overflows.crops:
        log.warning("%s", overflows.note())
    return summary


@dataclass
class OverflowTally:
    """What was beyond a store's type in the jobs of a run, which is told once."""

    dtype: str
    crops: int = 0
    channels: set[int] = field(default_factory=set)
    largest: float = 0.0

    def add(self, overflow: Overflow) -> None:
        """Count what one job met."""
        self.crops += len(overflow.sources)
        self.channels.update(overflow.channels)
        self.largest = max(self.largest, overflow.largest)

    def note(self) -> str:
        """Return what to say: how many crops, which channels, the largest number, and the remedy."""
        first, count = sorted(self.channels)[:NAMED_CHANNELS], len(self.channels)
        more = f" and {count - len(first):,} more" if count > len(first) else ""
        in_channels = f"in channel{'s' if count > 1 else ''} {', '.join(map(str, first))}{more}"
        remedy = "; to store them, make another store: --dtype bfloat16 --out DIR" if self.dtype == "float16" else ""
        return (
            f"{counted(self.crops, 'crops')} {'have' if self.crops > 1 else 'has'} numbers beyond {self.dtype} "
            f"({LARGEST[self.dtype]:.5g}), {in_channels}, up to {self.largest:.6g}{remedy}"
        )


@runtime_checkable
class JobRunner(Protocol):
    """Makes groups on one device; `featurize.pipeline.pipeline.Pipeline` is one."""

    seconds: dict[str, float]
    """How long each part was busy in the last `run`."""

    def run(self, jobs: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published; `advance` hears of clips that passed."""

    def close(self) -> None:
        """End what loading it began."""


@dataclass
class GroupMaker:
    """The maker of a stage that fills a store: one process, one device."""

    load: Callable[[str], JobRunner]
    """Loads the networks onto a device; picklable."""
    devices: list[str]
    threads: int | None
    """How many CPU cores a process may use where the device is the CPU; None leaves it to torch."""
    _runner: JobRunner | None = field(default=None, init=False, repr=False)

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long each part was busy in the last `make`."""
        return self._runner.seconds if self._runner is not None else {}

    def start(self, slot: int) -> None:
        """Load the networks onto this process's device."""
        device = self.devices[slot % len(self.devices)]
        if device == "cpu" and self.threads is not None:
            torch.set_num_threads(self.threads)
        self._runner = self._runner or self.load(device)

    def make(self, units: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the results of jobs."""
        assert self._runner is not None, "start comes first"
        yield from self._runner.run(units, advance)

    def close(self) -> None:
        """End what the runner of this process, if it has one, left running."""
        if self._runner is not None:
            self._runner.close()


def check_space(plan: StorePlan, freed: int = 0) -> None:
    """Check that the store has room for what is planned, once so many bytes were freed.

    Raises:
        StorageError: it has none.
    """
    check_room(plan.root, plan.bytes - freed, "choose another --out, or fewer --views")


def find_workers(config: StoreConfig) -> tuple[StoreConfig, list[str], int]:
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


def share_decoders(config: StoreConfig, reader: ClipReader, device: str, workers: int) -> StoreConfig:
    """Return the settings with each worker's share of the processes that decode beside a GPU, where it needs any."""
    if not reader.decodes or config.decode_threads is not None or not workers or not device.startswith("cuda"):
        return config
    share = min(decode_threads("cuda"), threads_of_worker(config, workers) or 1)
    return config.model_copy(update={"decode_threads": share})


def threads_of_worker(config: EngineConfig, workers: int) -> int | None:
    """Return how many CPU cores each of so many workers may use; None for this process alone, which may use all."""
    if config.engine == "ray":
        return max(1, int(config.worker_cpus or 1))
    return max(1, (os.cpu_count() or 1) // workers) if workers else None
