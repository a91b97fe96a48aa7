"""Makes a store of an earlier format one of the present format: the same numbers in far fewer files, without a GPU.

Takes a feature or token store of format 1, 2 or 3; returns another of the same identity, generations and content, to be
trained from or grown in place of the old one, which stays as it is. Each group is read whole, every chunk against its
checksum, and published whole. So it can be stopped and run again, and several processes share it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deltactl.artifacts import Header, make_provenance, read_header, read_quarantine
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.featurize.describe import state_of
from deltactl.featurize.pipeline.events import Job, JobResult
from deltactl.featurize.store.dropped import DROPPED
from deltactl.featurize.store.finish import finish, published, read_attributes, shard_hashes
from deltactl.featurize.store.group import BlackFrame, GroupHandle, Span
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, PIECE_CLIPS, SMALL, Layout
from deltactl.featurize.store.packing import Packing, pack_store
from deltactl.featurize.store.reader import LATE_SECONDS, READ_TIMEOUT_SECONDS, coarse_times
from deltactl.featurize.store.readers import make_reader
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.generations import extend
from deltactl.ingest.record import recorded, write_record
from deltactl.locations import Location
from deltactl.progress import Summary
from deltactl.stages import check_room, open_stage

log = logging.getLogger(__name__)

MADE_ANEW = ("format", "layout", "grid", "keys", "sources", "invalid", "bytes", "files")
"""What the writer of a group says of it; all else is taken over."""


@dataclass(frozen=True)
class Conversion:
    """An old store, and what becomes of it."""

    old: Location
    new: Location
    header: Header
    index: StoreIndex
    """Of the old store."""
    layout: Layout
    jobs: tuple[Job, ...]
    """Groups that are still to be converted."""
    skipped: int
    """Crops of groups that are there."""

    @property
    def bytes(self) -> int:
        """Bytes that are to be written."""
        return sum(self.index.views[job.view][job.unit].bytes for job in self.jobs)

    def clips_in(self, job: Job) -> int:
        """Return how many clips a group has."""
        return len(self.index.keys[job.unit])

    def found(self, job: Job) -> JobResult | None:
        """Return the result of a job whose group is there by now."""
        group = (job.view, job.unit)
        with contextlib.suppress(DamagedError):
            if shard_hashes(self.new, [group]) == shard_hashes(self.old, [group]):
                return JobResult(job, self.clips_in(job), 0, (), 0, made=False)
        return None

    def finish(self) -> StoreIndex | None:
        """Write index and quarantine of the new store, and pack what is there."""
        extend(self.new, self.header.generations)
        unusable = [entry for entry in read_quarantine(self.old) if "/" not in entry.unit]
        expected = sorted({*self.index.expected, *(entry.unit for entry in unusable)})
        index = finish(self.new, expected=expected, failed=unusable, awaited=self.index.awaited)
        if index is not None:
            pack_store(self.new, index)
        return index


def run(old: str, new: str) -> Summary:
    """Convert the store at `old` to a new one at `new`, and return what was done.

    Raises:
        ArtifactError: there is no store, or it is of the present format already.
        ClaimedError, IdentityError: something else is at `new`, or a process that must be alone writes there.
        ConfigError: both are one place.
        DamagedError: a byte of the old store is not as it was written; what was converted is kept.
        StorageError: there is no room.
    """
    summary = Summary(unit="crops")
    plan = plan_conversion(old, new)
    summary.add(skipped=plan.skipped)
    about = {key: value for key, value in make_provenance(()).items() if key in ("command", "host", "time")}
    provenance = {**plan.header.provenance, "converted_from": str(plan.old), **about}
    packing = Packing(plan.new, plan.layout, plan.index.expected, [(job.view, job.unit) for job in plan.jobs])

    def count(result: JobResult) -> None:
        packing.passed(result.job.view, result.job.unit)
        if result.made:
            summary.add(done=result.written, bytes=result.bytes)
        else:
            summary.add(skipped=result.clips)

    with open_stage(
        "convert",
        plan.new,
        plan.header.identity,
        provenance,
        summary=summary,
        generations=plan.header.generations,
        finish=lambda _: state_of(plan.new, plan.finish()),
    ) as stage:
        check_room(plan.new, plan.bytes, "or name another place")
        write_root(plan.new, _black(plan))
        if not (plan.new / DROPPED).exists() and (plan.old / DROPPED).exists():
            (plan.new / DROPPED).write_bytes((plan.old / DROPPED).read_whole())
        for number, generation in enumerate(recorded(plan.old) or (), start=1):  # of a store straight from videos
            write_record(plan.new, number, generation.to_json())
        stage.make(Converter(plan), plan.jobs, clips_in=plan.clips_in, found=plan.found, count=count, workers=0)
    return summary


def plan_conversion(old: str, new: str) -> Conversion:
    """Return what is to be done; raises as `run`."""
    before, after = Location.of(old), Location.of(new)
    if before == after or (before.is_local and after.is_local and before.path.resolve() == after.path.resolve()):
        raise ConfigError(f"OLD and NEW are both {before}; a store is converted to another place")
    header = read_header(before)
    if header.identity.kind not in ("features", "tokens"):
        raise ArtifactError(f"{before} holds {header.identity.kind}; convert takes a store of features or tokens")
    index = StoreIndex.read(before)
    if not index.layout.nested:
        raise ArtifactError(f"{before} has format {index.layout.format}, the present one; there is nothing to convert")
    layout = Layout(index.layout.kind, index.layout.frames, index.layout.item_shape, index.layout.dtype)
    groups = [(view, unit) for view, units in sorted(index.views.items()) for unit in sorted(units)]
    there = {(view, unit) for view, units in published(after).items() for unit in units}
    both = [group for group in groups if group in there]
    ours, theirs = shard_hashes(after, both), shard_hashes(before, both)
    done = {group for group in both if ours[group] == theirs[group]}
    jobs = tuple(Job(*group, replace=group in there) for group in groups if group not in done)
    skipped = sum(len(index.keys[unit]) for _, unit in done)
    return Conversion(before, after, header, index, layout, jobs, skipped)


@dataclass
class Converter:
    """The maker of the stage: groups of the old store in, groups of the new one out."""

    plan: Conversion
    seconds: dict[str, float] = field(default_factory=dict)
    _warned: bool = False

    def start(self, slot: int) -> None:
        """Load nothing."""

    def make(self, units: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the result of each group once it is published."""
        with contextlib.closing(make_reader(self.plan.old)) as reader:
            for job in units:
                yield self._convert(job, reader, advance)

    def _convert(self, job: Job, reader: Any, advance: Callable[[int], None]) -> JobResult:
        plan, index = self.plan, self.plan.index
        layout, entry = plan.layout, index.views[job.view][job.unit]
        group, keys = index.group(plan.old, job.view, job.unit), index.keys[job.unit]
        said = read_attributes(plan.old, job.view, job.unit, entry.sha256)
        known = Statistics(0, np.zeros(layout.item_shape[-1]), np.zeros(layout.item_shape[-1]))
        with group_writer(
            plan.new, job.view, job.unit, layout, keys, index.sources[job.unit], replace=job.replace
        ) as writer:
            for row in entry.invalid:
                writer.invalidate(row)
            for start in range(0, len(keys), PIECE_CLIPS):
                rows = range(start, min(start + PIECE_CLIPS, len(keys)))
                clips = np.empty((len(rows), layout.frames, *layout.item_shape), layout.bits)
                for reading in reader.start([Span(group, row, 0, layout.frames) for row in rows], clips):
                    reading.result(READ_TIMEOUT_SECONDS)
                for row, clip in zip(rows, clips, strict=True):
                    writer.put(row, 0, clip, known if "statistics" in said else None)
                advance(len(rows))
            small = {name: group.small(name) for name in SMALL if name != "valid"}
            self._warn_of_short_times(group)
            writer.close(grid=index.grid, small=small, attributes=_taken_over(said, job))
        return JobResult(job, len(keys), len(keys) - len(entry.invalid), (), writer.bytes)

    def _warn_of_short_times(self, group: GroupHandle) -> None:
        """Say once where an old group keeps late times so coarsely that they are wrong, as they stay."""
        times = group.small("times")
        late = float(np.nan_to_num(np.abs(times)).max(initial=0.0))
        if times.dtype == np.float32 and late >= LATE_SECONDS and not self._warned:
            remedy = "make the store again from its shards to have them exactly"
            log.warning("%s, and stay so; %s", coarse_times(group.root, late), remedy)
            self._warned = True


def _taken_over(said: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Return the attributes that a group keeps: all but those that its writer makes anew."""
    kept = {name: value for name, value in said.items() if name not in MADE_ANEW}
    return {"view": job.view, "shard": job.unit, **kept}


def _black(plan: Conversion) -> np.ndarray | None:
    """Return the features of an all-zero frame, if they are to be written."""
    if plan.layout.kind != "features" or (plan.new / BLACK / GROUP_FILE).exists():
        return None
    metadata = plan.index.files.get(f"{BLACK}/{GROUP_FILE}")
    return BlackFrame(plan.old, metadata, plan.layout.frame_shape).read()
