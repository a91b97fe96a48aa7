"""What an ingest will cost, before it runs: `--dry-run`. Writes nothing.

In comes an `IngestConfig`; out come sentences: sources, clips and shards, what is finished, and, from cutting a few
sources spread over the plan, bytes and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltactl.artifacts import HEADER, Quarantined, part_of, read_header
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import IdentityError
from deltactl.ingest.plan import Plan, UnitLog, UnitPlan
from deltactl.ingest.run import identity_of, make_plan, output_of, worker_count
from deltactl.ingest.shards import finished_units
from deltactl.locations import Location
from deltactl.progress import counted, format_bytes, format_seconds

SAMPLED = 4


@dataclass(frozen=True)
class Sample:
    """What cutting a few items of a plan showed."""

    items: int
    clips: int
    bytes: int
    seconds: float
    """Of one core."""
    quarantined: tuple[Quarantined, ...]


def describe_ingest(config: IngestConfig) -> list[str]:
    """Return what `run_ingest` would do with this configuration; it raises the errors that would stop it at once."""
    config = config.resolved()
    plan = make_plan(config)
    root = output_of(config)
    _check_identity(root, plan)
    units = part_of(plan.units, config.part)
    finished = set(finished_units(root))
    pending = [unit for unit in units if unit.name not in finished]
    clips = sum(unit.clips for unit in pending)
    part = f" (part {config.part})" if config.part else ""
    lines = [
        f"{plan.dataset}: {counted(plan.sources, 'sources')} in {plan.root} → {counted(plan.clips, 'clips')} of "
        f"{counted(config.frames or 0, 'frames')} in {counted(len(plan.units), 'shards')}",
        *plan.notes,
        f"to {root}{part}: {counted(len(units) - len(pending), 'shards')} finished, "
        f"{counted(len(pending), 'shards')} with {counted(clips, 'clips')} to do",
    ]
    if not pending:
        return lines
    sample = cut_sample(plan, pending)
    lines += [f"unreadable: {entry.source}: {entry.reason}" for entry in sample.quarantined]
    if sample.clips == 0:
        return [*lines, f"none of {counted(sample.items, 'sampled sources')} can be read, so there is no estimate"]
    expected = sample.bytes / sample.clips * clips
    free = root.free_bytes()
    room = "" if free is None else f"; {format_bytes(free)} are free"
    workers = max(1, worker_count(config))
    seconds = sample.seconds / sample.clips * clips / workers
    lines.append(f"about {format_bytes(expected)} ({format_bytes(sample.bytes / sample.clips)} a clip){room}")
    lines.append(
        f"about {format_seconds(seconds)} with {counted(workers, 'workers')} "
        f"(measured on {counted(sample.items, 'sources')})"
    )
    if free is not None and expected > free:
        lines.append(f"warning: that is {format_bytes(expected - free)} more than there is room for")
    return lines


def cut_sample(plan: Plan, units: Sequence[UnitPlan], count: int = SAMPLED) -> Sample:
    """Make the clips of a few items spread evenly over these units, and throw them away."""
    everything = [item for unit in units for item in unit.items]
    places = np.unique(np.linspace(0, len(everything) - 1, min(count, len(everything))).round().astype(int))
    items = [everything[place] for place in places]
    log = UnitLog()
    size = clips = 0
    plan.maker.start(0)
    try:
        for clip in plan.maker.clips(UnitPlan("sample", tuple(items), 0), log):
            clips += 1
            size += sum(map(len, clip.frames)) + sum(map(len, clip.labels.values())) + len(clip.meta.to_json())
            size += 1024 * (len(clip.frames) + len(clip.labels) + 1)  # headers and padding of a tar
    finally:
        plan.maker.close()
    return Sample(len(items), clips, size, sum(log.seconds.values()), tuple(log.quarantined))


def _check_identity(root: Location, plan: Plan) -> None:
    if not (root / HEADER).exists():
        return
    if differences := identity_of(plan).differences(read_header(root).identity):
        raise IdentityError(
            f"{root} was made from other inputs: {'; '.join(differences)}; choose another --out, or remove it"
        )
