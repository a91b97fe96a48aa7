"""Drives a tokenize: features, or shards, to a token store, group by group.

A job is one view of one shard. From a feature store its clips are read ahead while others are encoded; from shards the
pipeline of featurize runs, with the tokenizer where features would be written. Groups are published whole, so that the
same command goes on after a stop, and adds views; every group comes out the same with equal provenance.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float16
from torch import Tensor

from deltactl.artifacts import QUARANTINE, Quarantined, make_provenance, open_artifact, stable_provenance
from deltactl.claims import Share, share
from deltactl.configs.follow import Fact, follow, is_chosen, refuse_unused
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.devices import dtype_of, use_device
from deltactl.engine import batched, run_tasks
from deltactl.errors import ConfigError, DeltactlError, StorageError, TooManyBadError
from deltactl.featurize.compute import Computer, Result
from deltactl.featurize.events import Job, JobResult, Opened
from deltactl.featurize.fill import GroupFill, JobAgainError
from deltactl.featurize.finish import read_group_file
from deltactl.featurize.layout import Layout
from deltactl.featurize.pipeline import LIBRARIES, Pipeline, Settings
from deltactl.featurize.run import find_workers, threads_of_worker
from deltactl.featurize.state import state_of, state_there
from deltactl.featurize.store import ClipStore, FeatureStore, Reading
from deltactl.featurize.transfers import Arriving, Copies
from deltactl.featurize.writer import GroupWriter, group_writer, write_root
from deltactl.generations import check_fits
from deltactl.ingest.shards import ShardSet
from deltactl.progress import Progress, Summary, counted, format_bytes
from deltactl.train.checkpoints import load, network_hash
from deltactl.train.deltatok import TOKENIZER
from deltactl.train.encoder import Encoder, TokenFill
from deltactl.train.inputs import open_input
from deltactl.train.settle import check_backbone, obey
from deltactl.train.tokenize_plan import TokenPlan, plan_from_shards, plan_from_store
from deltactl.train.trained import strangers, trained_of

log = logging.getLogger(__name__)

JOBS_PER_TASK = 4
READS_AHEAD = 2


def tokenize(config: TokenizeConfig) -> Summary:
    """Make the tokens that the settings ask for, and return what was done.

    ConfigError, CheckpointError and IdentityError where that cannot be, StorageError where the disk is full,
    TooManyBadError where more than `config.max_bad` of the clips could not be used (what was written is kept).
    """
    started = time.monotonic()
    data = _open(config)
    config, devices, workers = find_workers(settled(config, data))
    plan = make_plan(config, data)
    provenance = make_provenance(
        LIBRARIES,
        tokenizer=config.tokenizer,
        backbone=_backbone_of(config, plan),
        data=str(plan.data.root),
        device=devices[0],
    )
    with share(plan.root) as work:
        for difference in open_artifact(plan.root, plan.identity, provenance):
            log.warning("%s: %s", plan.root, difference)
        check_fits(plan.root, plan.identity, plan.generations)
        summary = _make(config, plan, devices, workers, work)
    summary.seconds = time.monotonic() - started
    return summary


def _make(config: TokenizeConfig, plan: TokenPlan, devices: list[str], workers: int, work: Share) -> Summary:
    """Make the groups of a plan that no other process makes, and close the store once all are there."""
    _check_space(plan)
    write_root(plan.root, None)
    summary = Summary(unit="crops", skipped=plan.clips_there)
    failed: list[Quarantined] = []
    worker = TokenizeWorker(config, plan, devices, workers)
    size = max(1, min(JOBS_PER_TASK, len(plan.jobs) // max(4 * workers, 1)))
    try:
        with Progress(plan.clips, unit="crops", label="tokenize") as progress:

            def passed(job: Job) -> None:
                summary.add(skipped=plan.data.clips_in(job.unit))
                progress.advance(plan.data.clips_in(job.unit))

            for jobs in work.rounds(plan.jobs, name=lambda job: job.name, is_made=plan.is_made, passed=passed):
                for _, results in run_tasks(worker, batched(jobs, size), workers=workers, engine=config):
                    for result in results:
                        work.done(result.job.name)
                        _count(result, plan, config, summary, failed)
                        progress.advance(result.clips)
    except BaseException:
        # What is whole is usable at once, also when the next run never comes.
        with contextlib.suppress(DeltactlError):
            plan.finish(failed)
        raise
    summary.state = state_of(plan.root, plan.finish(failed))
    return summary


def dry_run(config: TokenizeConfig) -> Iterator[str]:
    """Yield what `tokenize` would do; raises at the end what would stop it at once, such as a disk without room."""
    data = _open(config)
    plan = make_plan(settled(config, data), data)
    check_fits(plan.root, plan.identity, plan.generations)
    yield from plan.lines()
    if (state := state_there(plan.root)) is not None:
        yield state
    _check_space(plan)


def _open(config: TokenizeConfig) -> ClipStore | ShardSet:
    """Open what is to be tokenized; ConfigError where no tokenizer is named."""
    if config.tokenizer is None:
        raise ConfigError("no tokenizer is named; give its checkpoint: --tokenizer CKPT")
    return open_input(config.data, ("features", "shards"))


def settled(config: TokenizeConfig, data: ClipStore | ShardSet) -> TokenizeConfig:
    """Return the settings that follow the features, or for shards the tokenizer's training, where they were not set.

    ConfigError where one contradicts the features that are there. What the tokenizer was trained on and does not get
    is said.
    """
    assert config.tokenizer is not None, "opened"
    networks = [("tokenizer", config.tokenizer)]
    here: dict[str, str | None] = {}
    live, of_shards = isinstance(data, ShardSet), "is about the backbone's pass over shards"
    refuse_unused(
        config,
        ("--batch-size", live, f"{of_shards}, and {data.root} holds features: it needs SHARDS"),
        ("--set decode_threads", live, f"{of_shards}, and {data.root} holds features: it needs SHARDS"),
    )
    if isinstance(data, ShardSet):
        stored = Fact("size", min(config.size, data.identity.integer("size")), str(data.root))
        trained = trained_of(config.tokenizer).facts(config.tokenizer)
        config, _ = follow(config, [*trained, stored])
        log.info("frames of %d px", config.size)
    else:
        values = data.identity.values
        known = [name for name in ("size", "seed", "crops") if name in values and is_chosen(config, name)]
        config = obey(config, [Fact(name, values[name], str(data.root)) for name in known])
        check_backbone(config, config.backbone, data)
        config, _ = follow(config, [Fact("size", data.identity.integer("size"), str(data.root))])
        here["backbone"] = str(values["backbone"])
    for note in strangers(networks, here, config.size):
        log.warning("%s", note)
    return config


def make_plan(config: TokenizeConfig, data: ClipStore | ShardSet) -> TokenPlan:
    """Return the plan of a tokenize; the networks are loaded to know their hashes."""
    assert config.tokenizer is not None, "opened"
    tokenizer = load(config.tokenizer, TOKENIZER)
    if isinstance(data, ShardSet):
        computer = _computer(config, "cpu", compiled=False)
        return plan_from_shards(config, data, computer, tokenizer, network_hash(tokenizer))
    assert isinstance(data, FeatureStore)
    return plan_from_store(config, data, tokenizer, network_hash(tokenizer))


class TokenizeWorker:
    """The engine worker of a tokenize: one device, one task is a few jobs."""

    def __init__(self, config: TokenizeConfig, plan: TokenPlan, devices: list[str], workers: int) -> None:
        self._config = config
        self._devices = devices
        self._workers = workers
        self._root = plan.root
        self._data = plan.data.root
        self._identity = plan.identity
        self._layout = plan.layout
        self._crops = None if plan.features is None else plan.features.crops
        self._maker: StoreTokens | ShardTokens | None = None

    def start(self, slot: int) -> None:
        """Load the networks onto this process's device."""
        device = use_device(self._devices[slot % len(self._devices)])
        if device.type == "cpu" and self._workers:
            torch.set_num_threads(threads_of_worker(self._config, self._workers))
        assert self._config.tokenizer is not None
        tokenizer = load(self._config.tokenizer, TOKENIZER)
        dtype, compiled = dtype_of(self._config.precision, device), self._config.compile
        if self._crops is None:
            store = FeatureStore.open(self._data)
            self._maker = StoreTokens(store, Encoder(tokenizer, store.black, store.grid, device, dtype, compiled), self)
            return
        computer = _computer(self._config, str(device), compiled=compiled)
        black = computer.backbone.black_features(self._config.size, self._config.size)
        settings = Settings(
            self._crops, self._config.seed, self._layout.frames, self._identity, self._config.decode_threads
        )
        self._maker = ShardTokens(
            ShardSet.open(self._data),
            self._root,
            computer,
            settings,
            encoder=Encoder(tokenizer, black, computer.grid, device, dtype, compiled),
        )

    def run(self, jobs: Sequence[Job]) -> tuple[JobResult, ...]:
        """Make and publish the groups of a few jobs."""
        assert self._maker is not None, "start comes first"
        return tuple(self._maker.run(jobs))

    def attributes(self, encoder: Encoder) -> dict[str, Any]:
        """Return what a group says about how it was made from features."""
        return {
            "identity": {"kind": self._identity.kind, "values": dict(self._identity.values)},
            "provenance": stable_provenance(LIBRARIES, tokenizer=encoder.provenance),
        }

    def writer(self, job: Job, keys: Sequence[str]) -> Any:
        """Return the writer of a group, to use in a `with` statement."""
        return group_writer(self._root, job.view, job.unit, self._layout, keys, replace=job.replace)


@dataclass
class ShardTokens(Pipeline):
    """The pipeline of featurize with a tokenizer at its end; patch features are never written."""

    encoder: Encoder = field(kw_only=True)

    @property
    def layout(self) -> Layout:
        """The shapes of the groups."""
        return Layout("tokens", self.settings.frames, (self.computer.backbone.dim,))

    def start(self, frames: Tensor) -> Result:
        """Begin to compute a batch of features, which stay on the device."""
        return self.computer.start_here(frames)

    def group_fill(self, opened: Opened, writer: GroupWriter) -> GroupFill:
        """Return what encodes the features of a job into its group."""
        return TokenFill(opened, writer, self.encoder)

    def _attributes(self, computed: Mapping[str, Any]) -> dict[str, Any]:
        attributes = super()._attributes(computed)
        attributes["provenance"]["tokenizer"] = self.encoder.provenance
        return attributes


class StoreTokens:
    """Encodes the groups of a feature store."""

    def __init__(self, store: FeatureStore, encoder: Encoder, worker: TokenizeWorker) -> None:
        self._store = store
        self._encoder = encoder
        self._worker = worker
        self._uploads = Copies(encoder.device)

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published."""
        for job in jobs:
            result = None
            while result is None:  # with fewer clips at once each time
                with contextlib.suppress(JobAgainError):
                    result = self._run(job)
            yield result

    def _run(self, job: Job) -> JobResult:
        store = self._store
        source = read_group_file(store.root, job.view, job.unit)
        samples, rows = store.samples_of(job.view, job.unit)
        keys = source.keys
        opened = Opened(job, keys, source.shard_sha256)
        with self._worker.writer(job, keys) as writer:
            fill = TokenFill(opened, writer, self._encoder)
            for entry in source.quarantined:
                if entry.source in keys:
                    fill.reasons[keys.index(entry.source)] = entry.reason
            for row in set(range(len(keys))) - set(rows):
                fill.leave_out(row)
            if samples:
                fill.times[rows] = store.times(samples).numpy()
                fill.crop[rows] = store.crops(samples).numpy()
                fill.flip[rows] = store.flips(samples).numpy()
            clips = self._encoder.clips
            parts = [slice(start, start + clips) for start in range(0, len(samples), clips)]
            for part, features in zip(parts, self._features([samples[part] for part in parts]), strict=True):
                fill.encode(rows[part], features)
            fill.flush()
            return fill.close(store.grid, self._worker.attributes(self._encoder))

    def _features(self, batches: Sequence[Sequence[int]]) -> Iterator[Float16[Tensor, "B T P D"]]:
        """Yield the features of batches of samples on the device; one is copied there while another is encoded."""
        ahead: Arriving | None = None
        for host in self._read(batches):
            begun = self._uploads.to_device(host)
            if ahead is not None:
                yield ahead.here()[0]
            ahead = begun
        if ahead is not None:
            yield ahead.here()[0]

    def _read(self, batches: Sequence[Sequence[int]]) -> Iterator[Float16[Tensor, "B T P D"]]:
        """Yield the features of batches of samples, pinned where there is a GPU, some of them read ahead."""
        ahead: deque[Reading] = deque()
        for samples in batches:
            ahead.append(self._store.start_clips(samples))
            if len(ahead) > READS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _backbone_of(config: TokenizeConfig, plan: TokenPlan) -> str | None:
    """Return name or folder of the backbone behind the tokens, where it is known."""
    if isinstance(plan.data, ShardSet):
        return config.backbone
    name = plan.data.provenance.get("backbone")
    return name if isinstance(name, str) else None


def _computer(config: TokenizeConfig, device: str, *, compiled: bool | None) -> Computer:
    return Computer.load(
        config.backbone,
        config.size,
        device=device,
        precision=config.precision,
        batch_size=config.batch_size,
        compiled=compiled,
    )


def _count(
    result: JobResult, plan: TokenPlan, config: TokenizeConfig, summary: Summary, failed: list[Quarantined]
) -> None:
    """Count what a job did; TooManyBadError as soon as more clips are bad than may be."""
    failed += result.quarantined if result.failed else ()
    summary.add(done=result.written, quarantined=len(result.quarantined), bytes=result.bytes)
    for entry in result.quarantined:
        log.warning("quarantined %s: %s", entry.source, entry.reason)
    if summary.quarantined > config.max_bad * plan.clips:
        raise TooManyBadError(
            f"{summary.quarantined:,} of {counted(plan.clips, 'crops')} could not be used, more than --max-bad "
            f"{config.max_bad:g} allows; all are in {plan.root / QUARANTINE}; what was written is kept"
        )


def _check_space(plan: TokenPlan) -> None:
    free = plan.root.free_bytes()
    if free is not None and free < plan.bytes:
        raise StorageError(
            f"{plan.root} needs {format_bytes(plan.bytes)} more, and {format_bytes(free)} are free there; make room, "
            "or choose another --out"
        )
