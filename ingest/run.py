"""Drives an ingest: plan, claim the artifact, make the missing shards, and close with index and quarantine.

In comes an `IngestConfig`, out come shards and a `Summary`. Each shard is made by one worker process and published
whole or not at all, so an ingest can be killed at any moment and run again, by several processes at once, or in parts
on several machines: finished shards are kept, and every shard comes out the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltactl.artifacts import (
    INDEX,
    QUARANTINE,
    Identity,
    Quarantined,
    default_location,
    make_provenance,
    open_artifact,
    part_of,
    read_header,
    stable_provenance,
    write_quarantine,
)
from deltactl.claims import Share, share
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import data_set
from deltactl.datasets.record import VideoSet
from deltactl.engine import run_tasks
from deltactl.errors import TooManyBadError
from deltactl.ingest.decode_dali import gpu_count
from deltactl.ingest.growth import check_clips, keep_record
from deltactl.ingest.plan import ClipMaker, Plan, UnitLog, UnitPlan
from deltactl.ingest.shards import (
    FORMAT,
    KIND,
    Clip,
    Sidecar,
    finish,
    finished_units,
    read_sidecar,
    write_shard,
)
from deltactl.locations import Location
from deltactl.progress import Progress, Summary, counted

log = logging.getLogger(__name__)

PIPELINES_PER_GPU = 7
"""Processes that decode on one GPU: as many as the largest cards have decoding engines."""
LIBRARIES = ("av", "numpy", "opencv-python-headless", "webdataset", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True)
class UnitResult:
    """What came of one unit."""

    clips: int
    bytes: int
    quarantined: tuple[Quarantined, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    made: bool = True
    """False where another process had made it meanwhile."""
    left_by_dali: tuple[tuple[str, str], ...] = ()
    """Why PyAV decoded a source for which DALI was asked, and which."""


class UnitWorker:
    """The engine worker of an ingest: one task is one shard."""

    def __init__(
        self,
        maker: ClipMaker,
        root: Location,
        provenance: Mapping[str, Any],
        unusable: Sequence[Quarantined],
        replace: frozenset[str],
        copies: Mapping[str, str] | None = None,
    ) -> None:
        self._maker = maker
        self._root = root
        self._provenance = provenance
        self._unusable = tuple(unusable)
        self._replace = replace
        self._copies = dict(copies or {})

    def start(self, slot: int) -> None:
        """Prepare the decoders of this process."""
        import webdataset  # noqa: F401  (slow to import, and not to be counted as the writing of the first shard)

        self._maker.start(slot)

    def run(self, unit: UnitPlan) -> UnitResult:
        """Make and publish one shard, unless it is there."""
        replace = unit.name in self._replace
        if not replace and (self._root / f"{unit.name}.json").exists():
            return _result_of(read_sidecar(self._root, unit.name), made=False)
        unit_log = UnitLog([entry for entry in self._unusable if entry.unit == unit.name])
        started = time.perf_counter()
        waited = Stopwatch()
        clips = self._with_copies(waited.timing(self._maker.clips(unit, unit_log)), unit_log)
        before = read_sidecar(self._root, unit.name) if replace else None
        if before is not None:
            clips = _at_least(before.count, clips)
        try:
            sidecar = write_shard(self._root, unit.name, clips, unit_log.quarantined, self._provenance, replace=replace)
        except _FewerClipsError as error:
            assert before is not None
            log.warning("%s.tar keeps its %s clips: %s", self._root / unit.name, f"{before.count:,}", error)
            return _result_of(before, made=False)
        unit_log.add_seconds("write", time.perf_counter() - started - waited.seconds)
        return _result_of(sidecar, seconds=unit_log.seconds, left_by_dali=unit_log.left_by_dali)

    def _with_copies(self, clips: Iterator[Clip], unit_log: UnitLog) -> Iterator[Clip]:
        """Yield the clips; then quarantine the copies of what was quarantined, for the same reason."""
        yield from clips
        reasons = {entry.source: entry for entry in unit_log.quarantined}
        for copy, original in self._copies.items():
            if (entry := reasons.get(original)) is not None:
                unit_log.quarantined.append(Quarantined(copy, entry.reason, entry.unit))

    def close(self) -> None:
        """End what the decoders left running."""
        self._maker.close()


class _FewerClipsError(Exception):
    """A shard that is made again would hold fewer clips than the one that is there."""


def _at_least(count: int, clips: Iterator[Clip]) -> Iterator[Clip]:
    """Yield the clips, and raise at the end where they are fewer, so that what is there is not replaced."""
    made = 0
    for clip in clips:
        made += 1
        yield clip
    if made < count:
        raise _FewerClipsError(f"made again it would have {made:,}: sources that were read then cannot be read now")


class Stopwatch:
    """Seconds spent in getting the items of an iterator."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timing(self, items: Iterator[Clip]) -> Iterator[Clip]:
        """Yield the items, counting the time each takes to come."""
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            yield item


def make_plan(config: IngestConfig) -> Plan:
    """Return the plan of a resolved configuration; ConfigError where its sources cannot be used."""
    assert config.dataset is not None
    if isinstance(data_set(config.dataset), VideoSet):
        from deltactl.ingest.training import plan_training

        return plan_training(config, worker_count(config), output_of(config))
    from deltactl.ingest.evaluation import plan_evaluation

    return plan_evaluation(config)


def output_of(config: IngestConfig) -> Location:
    """Return where the shards of a resolved configuration go."""
    return Location.of(config.out) if config.out else default_location("shards", config.default_name())


def identity_of(plan: Plan) -> Identity:
    """Return the identity of the shards that a plan makes."""
    return Identity(KIND, {"format": FORMAT, **plan.identity})


def run_ingest(config: IngestConfig) -> Summary:
    """Make the shards that are missing, and return what was done.

    ConfigError, IdentityError or StorageError where that cannot be; TooManyBadError once more sources are unreadable
    than `max_bad` allows. Finished shards stay in every case.
    """
    started = time.monotonic()
    config = config.resolved()
    plan = make_plan(config)
    root = output_of(config)
    for note in plan.notes:
        log.info("%s", note)
    with share(root) as work:
        check_clips(root, plan)
        facts = {"decoder": config.decoder, "ffmpeg": ffmpeg_versions()}
        for difference in open_artifact(root, identity_of(plan), make_provenance(LIBRARIES, source=plan.root, **facts)):
            log.warning("%s: %s", root, difference)
        keep_record(root, plan)
        summary = _make(config, plan, root, facts, work)
    summary.seconds = time.monotonic() - started
    return summary


def _make(config: IngestConfig, plan: Plan, root: Location, facts: Mapping[str, Any], work: Share) -> Summary:
    """Make the shards of a plan that no other process makes, and close the set once all are there."""
    finished = finished_units(root)
    _remove_lone_sidecars(root, plan, set(finished))
    counts, bad = look_at(root, finished)
    again = frozenset(bad if config.retry_failed else ())
    if again:
        (root / INDEX).remove()  # it names shards that are about to be replaced
    tally = BadTally(plan.sources, config.max_bad, root)
    for name in bad.keys() - again:
        tally.add(bad[name])
    units = part_of(plan.units, config.part)
    kept = set(finished) - again
    pending = [unit for unit in units if unit.name not in kept]
    unchanging = stable_provenance(LIBRARIES, **facts)
    worker = UnitWorker(plan.maker, root, unchanging, plan.quarantined, again, plan.copies)
    processes = min(worker_count(config), len(pending))
    skipped = sum(counts[unit.name] for unit in units if unit.name in kept)
    summary = Summary(unit="clips", bad="sources", skipped=skipped)
    left = LeftByDali()

    def is_made(unit: UnitPlan) -> bool:
        return unit.name not in again and (root / f"{unit.name}.json").exists()

    try:
        tally.check()
        with Progress(sum(unit.clips for unit in pending), unit="clips", label=f"ingest {plan.dataset}") as progress:

            def count(unit: UnitPlan, result: UnitResult) -> None:
                progress.advance(unit.clips)
                left.add(result.left_by_dali)
                _count(summary, result)
                counts[unit.name] = result.clips
                tally.add(result.quarantined)
                tally.check()

            def passed(unit: UnitPlan) -> None:
                count(unit, _result_of(read_sidecar(root, unit.name), made=False))

            for drawn in work.rounds(pending, name=lambda unit: unit.name, is_made=is_made, passed=passed):
                tasks = run_tasks(worker, drawn, workers=processes if processes > 1 else 0, engine=config)
                with contextlib.closing(tasks) as results:
                    for unit, result in results:
                        work.done(unit.name)
                        count(unit, result)
    except TooManyBadError:
        write_quarantine(root, tally.entries)
        raise
    finally:
        worker.close()
        left.tell()
    there = set(finished_units(root))
    # Another process may have found that sources were added meanwhile.
    ended = {unit.name for unit in plan.units} <= there and read_header(root).generations == plan.generations
    if ended:
        finish(root)
    else:
        write_quarantine(root, tally.entries)
    counts.update(look_at(root, sorted(there - counts.keys()))[0])  # those of other parts
    clips = sum(counts[unit] for unit in there)
    summary.state = SetState(root, clips, len(there), len(plan.units), plan.sources, len(tally.entries), ended).line()
    return summary


@dataclass(frozen=True)
class SetState:
    """How far a set of shards is, whatever this call did of it."""

    root: Location
    clips: int
    shards: int
    planned: int
    sources: int
    quarantined: int
    ended: bool

    def line(self) -> str:
        """Return it in words."""
        quarantined = f"{self.quarantined:,} of {counted(self.sources, 'sources')} in quarantine"
        if self.ended:
            held = f"{counted(self.clips, 'clips')} in {counted(self.shards, 'shards')}"
            return f"{self.root} is complete: {held}, {quarantined}"
        return (
            f"{self.root} is unfinished: {self.shards:,} of {self.planned:,} shards with {self.clips:,} clips so far, "
            f"{quarantined}"
        )


class BadTally:
    """Counts the sources that cannot be used against the share that may be."""

    def __init__(self, sources: int, max_bad: float, root: Location) -> None:
        self.entries: list[Quarantined] = []
        self._sources = sources
        self._max_bad = max_bad
        self._root = root

    def add(self, entries: Sequence[Quarantined]) -> None:
        """Count the quarantined sources of a shard."""
        self.entries.extend(entries)

    @property
    def allowed(self) -> float:
        """How many there may be."""
        return self._max_bad * self._sources

    def check(self) -> None:
        """Raise TooManyBadError once there are more than may be."""
        if len(self.entries) > self.allowed:
            last = self.entries[-1]
            raise TooManyBadError(
                f"{len(self.entries):,} of {counted(self._sources, 'sources')} cannot be read, more than --max-bad "
                f"{self._max_bad:g} allows (such as {last.source}: {last.reason}); "
                f"{self._root / QUARANTINE} lists them; "
                "finished shards are kept: mend the sources and add --retry-failed, or allow more with --max-bad"
            )


class LeftByDali:
    """Tells of videos that PyAV decodes though DALI was asked for: a line for each reason, and the counts at the end.

    Reasons that differ in their figures alone (sizes, positions) are one.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, videos: Sequence[tuple[str, str]]) -> None:
        """Count videos: the reason and the source of each."""
        for reason, source in videos:
            kind = re.sub(r"\b\d[\d.,]*", "…", reason)
            if kind not in self._counts:
                log.warning("PyAV decodes %s, and others alike, in place of DALI: %s", source, reason)
            self._counts[kind] += 1

    def tell(self) -> None:
        """Say how many there were."""
        if self._counts:
            reasons = "; ".join(f"{count:,} × {kind}" for kind, count in self._counts.most_common())
            log.warning("%s videos were decoded by PyAV in place of DALI: %s", f"{self._counts.total():,}", reasons)


def worker_count(config: IngestConfig) -> int:
    """Return how many processes work at once, unless given: as many as this process may use cores.

    Where DALI decodes on GPUs, no more than their decoding engines: each process has a CUDA context of its own, and
    these take turns.
    """
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0))
    gpus = gpu_count() if config.decoder == "dali" and config.engine == "local" else 0
    return min(cores, PIPELINES_PER_GPU * gpus) if gpus else cores


def ffmpeg_versions() -> dict[str, str]:
    """Return the versions of FFmpeg's libraries that PyAV carries; decoded pixels may depend on them."""
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in sorted(av.library_versions.items())}


def _remove_lone_sidecars(root: Location, plan: Plan, finished: set[str]) -> None:
    """Make units whose tar was removed count as not made; publishing would take their sidecar for another process's."""
    names = set(root.list())
    for unit in plan.units:
        if unit.name not in finished and f"{unit.name}.json" in names and not (root / f"{unit.name}.tar").exists():
            (root / f"{unit.name}.json").remove()


def look_at(root: Location, finished: Sequence[str]) -> tuple[dict[str, int], dict[str, tuple[Quarantined, ...]]]:
    """Return the clips of each finished shard, and the quarantined sources of those that have any."""
    counts: dict[str, int] = {}
    bad: dict[str, tuple[Quarantined, ...]] = {}
    for unit in finished:
        sidecar = read_sidecar(root, unit)
        counts[unit] = sidecar.count
        if sidecar.quarantined:
            bad[unit] = sidecar.quarantined
    return counts, bad


def _count(summary: Summary, result: UnitResult) -> None:
    if result.made:
        bad = len(result.quarantined)
        summary.add(done=result.clips, quarantined=bad, bytes=result.bytes, parts=result.seconds)
    else:
        summary.add(skipped=result.clips)


def _result_of(
    sidecar: Sidecar,
    *,
    seconds: Mapping[str, float] | None = None,
    made: bool = True,
    left_by_dali: Sequence[tuple[str, str]] = (),
) -> UnitResult:
    return UnitResult(
        sidecar.count, sidecar.tar_bytes, sidecar.quarantined, seconds or {}, made, left_by_dali=tuple(left_by_dali)
    )
