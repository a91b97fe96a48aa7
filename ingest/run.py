"""Drives an ingest: videos and data sets in, shards out.

Each shard is made by one process and published whole or not at all, so an ingest can be killed at any moment and run
again, by several processes at once, or in parts on several machines: finished shards are kept, and every shard comes
out the same.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import (
    INDEX,
    QUARANTINE,
    Quarantined,
    make_provenance,
    part_of,
    read_header,
    read_quarantine,
    stable_provenance,
    write_quarantine,
)
from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.growth import check_clips, keep_record
from deltactl.ingest.plan import identity_of, output_of, plan, worker_count
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.format import Clip, finish, read_indexed, write_shard
from deltactl.ingest.shards.sidecars import Sidecar, finished_units, read_sidecar
from deltactl.ingest.units import ClipMaker, Plan, UnitLog, UnitPlan
from deltactl.locations import Location
from deltactl.progress import Summary, counted
from deltactl.stages import BadTally, open_stage

log = logging.getLogger(__name__)

LIBRARIES = ("av", "numpy", "opencv-python-headless", "webdataset", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def run(config: IngestConfig) -> Summary:
    """Make the shards that are missing, and return what was done.

    Finished shards stay in every case.

    Raises:
        ConfigError: the sources cannot be used.
        ClaimedError, IdentityError: see `stages.open_stage`.
        StorageError: the shards cannot be written.
        TooManyBadError: more sources are unreadable than `max_bad` allows.
    """
    summary = Summary(unit="clips", bad="sources")
    config = resolved(config)
    planned = plan(config)
    root = output_of(config)
    for note in planned.notes:
        log.info("%s", note)
    check_clips(root, planned)
    facts = {"decoder": config.decoder, "ffmpeg": ffmpeg_versions()}
    provenance = make_provenance(LIBRARIES, source=planned.root, **facts)
    tally = tally_of(config, planned, root)
    with open_stage(
        f"ingest {planned.dataset}",
        root,
        identity_of(planned),
        provenance,
        summary=summary,
        generations=planned.generations,
        finish=lambda ended: _finish(root, planned, ended),
    ) as stage:
        keep_record(root, planned)
        _remove_lone_sidecars(root, planned)
        counts, bad = look_at(root)
        again = frozenset(bad if config.retry_failed else ())
        if again:
            (root / INDEX).remove()  # it names shards that are about to be replaced
        for name in bad.keys() - again:
            tally.add(bad[name])
        tally.check()
        kept = counts.keys() - again
        units = part_of(planned.units, config.part)
        pending = [unit for unit in units if unit.name not in kept]
        summary.add(skipped=sum(counts[unit.name] for unit in units if unit.name in kept))
        left = LeftByDali()

        def count(result: ShardResult) -> None:
            left.add(result.left_by_dali)
            if result.made:
                summary.add(done=result.clips, quarantined=len(result.quarantined), bytes=result.bytes)
            else:
                summary.add(skipped=result.clips)
            tally.add(result.quarantined)
            tally.check()

        unchanging = stable_provenance(LIBRARIES, **facts)
        maker = ShardMaker(planned.maker, root, unchanging, planned.quarantined, again, planned.copies)
        processes = min(worker_count(config), len(pending))
        try:
            stage.make(
                maker,
                pending,
                clips_in=lambda unit: unit.clips,
                found=maker.found,
                count=count,
                workers=processes if processes > 1 else 0,
                engine=config,
            )
        finally:
            maker.close()
            left.tell()
    return summary


def _finish(root: Location, planned: Plan, ended: bool) -> str:
    """Write the index if all shards are there, else the quarantine of those that are; return the set's state."""
    # Another process may have found that sources were added meanwhile.
    same = read_header(root).generations == planned.generations
    complete = ended and same and {unit.name for unit in planned.units} <= set(finished_units(root))
    if complete:
        finish(root)
        counts = {unit: entry.count for unit, entry in read_indexed(root).items()}
    else:
        counts, bad = look_at(root)
        write_quarantine(root, [entry for unit in bad.values() for entry in unit])
    quarantined = len(read_quarantine(root))
    clips = sum(counts.values())
    return SetState(root, clips, len(counts), len(planned.units), planned.sources, quarantined, complete).line()


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard."""

    name: str
    clips: int
    bytes: int
    quarantined: tuple[Quarantined, ...]
    made: bool = True
    """False if another process had made it meanwhile."""
    left_by_dali: tuple[tuple[str, str], ...] = ()
    """Why PyAV decoded a source for which DALI was asked, and which."""

    @classmethod
    def of(cls, sidecar: Sidecar, name: str, **how: Any) -> ShardResult:
        """Return the result of a shard that is there."""
        return cls(name, sidecar.count, sidecar.tar_bytes, sidecar.quarantined, **how)


class ShardMaker:
    """The maker of an ingest: it makes shards one after the other."""

    def __init__(
        self,
        maker: ClipMaker,
        root: Location,
        provenance: Mapping[str, Any],
        unusable: Sequence[Quarantined],
        replace: frozenset[str],
        copies: Mapping[str, str] | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        """How long each part was busy in the last `make`."""
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

    def make(self, units: Iterable[UnitPlan], advance: Callable[[int], None]) -> Iterator[ShardResult]:
        """Yield the result of each shard once it is published, or found."""
        self.seconds = {}
        for unit in units:
            result = self.found(unit) or self._make(unit)
            advance(unit.clips)
            yield result

    def found(self, unit: UnitPlan) -> ShardResult | None:
        """Return the result of a shard that another process has made meanwhile; None if it is to be made."""
        if unit.name in self._replace or not (self._root / f"{unit.name}.json").exists():
            return None
        return ShardResult.of(read_sidecar(self._root, unit.name), unit.name, made=False)

    def _make(self, unit: UnitPlan) -> ShardResult:
        replace = unit.name in self._replace
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
            return ShardResult.of(before, unit.name, made=False)
        unit_log.add_seconds("write", time.perf_counter() - started - waited.seconds)
        for part, seconds in unit_log.seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        return ShardResult.of(sidecar, unit.name, left_by_dali=tuple(unit_log.left_by_dali))

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
    """Yield the clips; raise at the end if they are fewer, which keeps the shard that is there."""
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


def tally_of(config: IngestConfig, planned: Plan, root: Location) -> BadTally:
    """Return what counts the sources that cannot be used."""
    remedy = (
        f"{root / QUARANTINE} lists them; finished shards are kept: mend the sources and add --retry-failed, or allow "
        "more with --max-bad"
    )
    return BadTally("sources", planned.sources, config.max_bad, remedy, fault="cannot be read")


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


def ffmpeg_versions() -> dict[str, str]:
    """Return the versions of FFmpeg's libraries that PyAV carries; decoded pixels may depend on them."""
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in sorted(av.library_versions.items())}


def _remove_lone_sidecars(root: Location, planned: Plan) -> None:
    """Make units whose tar was removed count as not made; publishing would take their sidecar for another process's."""
    names, finished = set(root.list()), set(finished_units(root))
    for unit in planned.units:
        if unit.name not in finished and f"{unit.name}.json" in names and not (root / f"{unit.name}.tar").exists():
            (root / f"{unit.name}.json").remove()


def look_at(root: Location) -> tuple[dict[str, int], dict[str, tuple[Quarantined, ...]]]:
    """Return the clips of each finished shard, and the quarantined sources of those that have any."""
    counts: dict[str, int] = {}
    bad: dict[str, tuple[Quarantined, ...]] = {}
    for unit in finished_units(root):
        sidecar = read_sidecar(root, unit)  # not kept: the keys of all clips of Kinetics take half a gigabyte
        counts[unit] = sidecar.count
        if sidecar.quarantined:
            bad[unit] = sidecar.quarantined
    return counts, bad
