"""What an ingest will cost, before it runs: `--dry-run`. Writes nothing.

Takes an `IngestConfig`, yields sentences: sources, clips and shards, what is finished, and bytes and time, measured by
cutting a few sources spread over the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deltactl.artifacts import INDEX, Quarantined, part_of
from deltactl.configs.ingest import IngestConfig
from deltactl.generations import check_fits
from deltactl.ingest.growth import check_clips
from deltactl.ingest.plan import identity_of, output_of, plan, worker_count
from deltactl.ingest.run import SetState, look_at, tally_of
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.columns import encode_columns
from deltactl.ingest.units import Plan, UnitLog, UnitPlan
from deltactl.locations import Location
from deltactl.progress import counted, format_bytes, format_seconds
from deltactl.stages import BadTally

SAMPLED = 4
"""Sources that a dry run cuts, to measure bytes and time."""


@dataclass(frozen=True)
class Sample:
    """What cutting a few items of a plan showed."""

    items: int
    clips: int
    bytes: int
    seconds: float
    """Of one core."""
    quarantined: tuple[Quarantined, ...]


def dry_run(config: IngestConfig) -> Iterator[str]:
    """Yield what an ingest would do with this configuration.

    Raises:
        DeltactlError: whatever would stop the ingest at once.
        TooManyBadError: the unreadable ones of the sampled sources, with those in quarantine, would stop it; raised at
            the end.
    """
    config = resolved(config)
    planned = plan(config)
    root = output_of(config)
    check_clips(root, planned)
    there = check_fits(root, identity_of(planned), planned.generations)
    units = part_of(planned.units, config.part)
    counts, bad = look_at(root)
    tally = tally_of(config, planned, root)
    for entries in () if config.retry_failed else bad.values():
        tally.add(entries)
    kept = counts.keys() - (bad.keys() if config.retry_failed else set())
    pending = [unit for unit in units if unit.name not in kept]
    clips = sum(unit.clips for unit in pending)
    part = f" (part {config.part})" if config.part else ""
    yield (
        f"{planned.dataset}: {counted(planned.sources, 'sources')} in {planned.root} → "
        f"{counted(planned.clips, 'clips')} of {counted((config.frames or 0) * config.frames_per_step, 'frames')} in "
        f"{counted(len(planned.units), 'shards')}"
    )
    yield from planned.notes
    yield (
        f"to {root}{part}: {counted(len(units) - len(pending), 'shards')} finished, "
        f"{counted(len(pending), 'shards')} with {counted(clips, 'clips')} to do"
    )
    if there:
        quarantined = sum(map(len, bad.values()))
        ended = (root / INDEX).exists() and len(counts) >= len(planned.units)
        state = (len(counts), len(planned.units), planned.sources, quarantined, ended)
        yield SetState(root, sum(counts.values()), *state).line()
    if pending:
        yield from _sampled(config, planned, pending, clips, root, tally)
    tally.check()


def _sampled(
    config: IngestConfig, plan: Plan, pending: Sequence[UnitPlan], clips: int, root: Location, tally: BadTally
) -> Iterator[str]:
    """Yield what cutting a few sources shows, and count those that cannot be read."""
    sample = cut_sample(plan, pending)
    to_do = {unit.name for unit in pending}
    tally.add([*(entry for entry in plan.quarantined if entry.unit in to_do), *sample.quarantined])
    of = sum(len(unit.items) for unit in pending)
    yield f"read {sample.items:,} of the {of:,} sources to do: {len(sample.quarantined):,} cannot be used"
    yield from (f"unreadable: {entry.source}: {entry.reason}" for entry in sample.quarantined)
    if sample.items < of and sample.quarantined and len(tally.entries) <= tally.allowed:
        yield (
            f"warning: the ingest stops once more than {tally.allowed:.0f} sources cannot be read "
            f"(--max-bad {config.max_bad:g}); at this share there would be "
            f"{round(len(sample.quarantined) / sample.items * of):,}"
        )
    if sample.clips == 0:
        yield f"none of {counted(sample.items, 'sampled sources')} can be read, so there is no estimate"
        return
    expected = sample.bytes / sample.clips * clips
    free = root.free_bytes()
    room = "" if free is None else f"; {format_bytes(free)} are free"
    workers = max(1, worker_count(config))
    seconds = sample.seconds / sample.clips * clips / workers
    yield f"about {format_bytes(expected)} ({format_bytes(sample.bytes / sample.clips)} a clip){room}"
    yield (
        f"about {format_seconds(seconds)} with {counted(workers, 'workers')} "
        f"(measured on {counted(sample.items, 'sources')})"
    )
    if free is not None and expected > free:
        yield f"warning: that is {format_bytes(expected - free)} more than there is room for"


def cut_sample(plan: Plan, units: Sequence[UnitPlan], count: int = SAMPLED) -> Sample:
    """Make the clips of a few items spread evenly over these units, and throw them away."""
    everything = [item for unit in units for item in unit.items]
    positions = np.unique(np.linspace(0, len(everything) - 1, min(count, len(everything))).round().astype(int))
    items = [everything[position] for position in positions]
    log = UnitLog()
    size = clips = 0
    plan.maker.start(0)
    try:
        for clip in plan.maker.clips(UnitPlan("sample", tuple(items), 0), log):
            clips += 1
            size += sum(map(len, clip.frames)) + sum(map(len, clip.labels.values())) + len(clip.meta.to_json())
            size += len(encode_columns(clip.columns)) if clip.columns else 0
            members = len(clip.frames) + len(clip.labels) + 1 + bool(clip.columns)
            size += 1024 * members  # headers and padding of a tar
    finally:
        plan.maker.close()
    return Sample(len(items), clips, size, sum(log.seconds.values()), tuple(log.quarantined))
