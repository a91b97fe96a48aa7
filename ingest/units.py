"""What an ingest will make: the units (shards) of a data set, and who makes the clips of one.

A plan is a pure function of the listing of the sources, the configuration and the seed: any number of workers, in any
order, now or after a restart, make the same shards. It is small: a unit holds names, not pixels
(536,000 sources: about 60 MB in the process that plans, one unit at a time in a worker).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from deltactl.artifacts import Quarantined
from deltactl.ingest.shards.format import Clip


@dataclass(frozen=True)
class UnitPlan:
    """One shard to make: its name and, in order, the items its clips come from (sources, or clips)."""

    name: str
    """Six digits, `000000` on; the shard is NAME.tar."""
    items: tuple[Any, ...]
    """Whatever the plan's `ClipMaker` understands; small and picklable."""
    clips: int
    """Clips the shard will hold if every item can be read."""


@dataclass
class UnitLog:
    """What a `ClipMaker` has to tell about a unit besides its clips; filled while they are made."""

    quarantined: list[Quarantined] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the work ("decode", "encode", …), to find the part that sets the pace."""
    left_by_dali: list[tuple[str, str]] = field(default_factory=list)
    """Why PyAV decoded a source for which DALI was asked, and which."""

    def add_seconds(self, part: str, seconds: float) -> None:
        """Count `seconds` spent in `part`."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


@dataclass(frozen=True)
class PlannedClip:
    """A clip as its unit plans it, before anything of its source was read."""

    key: str
    source: str
    """Path of its source, relative to the root of the data set."""
    source_name: str
    """What all clips of the source have in common."""


@runtime_checkable
class ClipMaker(Protocol):
    """Turns the items of a unit into clips. Picklable; lives in the worker processes."""

    def start(self, slot: int) -> None:
        """Prepare this process (open decoders, choose the device of worker number `slot`)."""

    def clips(self, unit: UnitPlan, log: UnitLog) -> Iterator[Clip]:
        """Yield the clips of `unit` in order; a source that cannot be read goes to `log.quarantined` instead."""

    def close(self) -> None:
        """Let go of what `start` opened."""


@dataclass(frozen=True)
class Plan:
    """What one `deltactl ingest` makes."""

    dataset: str
    root: str
    """Where the sources are, as the user named it; for messages and provenance, not part of the identity."""
    units: tuple[UnitPlan, ...]
    sources: int
    """Sources in the plan: what `--max-bad` is a share of."""
    identity: dict[str, Any]
    """JSON values that make two plans the same artifact: data set, settings, seed, hash of the sources."""
    maker: ClipMaker
    clip_bytes: int | None = None
    """Estimate of the stored bytes of one clip, None where only a sample can tell."""
    quarantined: tuple[Quarantined, ...] = ()
    """Sources that the planning itself found unusable (a label without its frame, say); `unit` is that of the
    shard in which their clips would have been."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling before the work begins."""
    generations: tuple[Mapping[str, Any], ...] = ()
    """What `artifact.json` says of each addition of sources; the identity is that of the first generation."""
    record: tuple[Mapping[str, Any], ...] = ()
    """The names of the sources, generation by generation (see `record`)."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Sources that are the same file as another, which stands for them, and which that is."""

    @property
    def clips(self) -> int:
        """Clips of all units together."""
        return sum(unit.clips for unit in self.units)


def unit_name(number: int) -> str:
    """Return the name of unit `number`, six digits."""
    return f"{number:06d}"


def split_into_units(
    items: Sequence[Any], *, items_per_unit: int, clips_per_item: int = 1, first: int = 0
) -> tuple[UnitPlan, ...]:
    """Cut `items`, in their order, into units of `items_per_unit`, from number `first`; the last may hold fewer."""
    if items_per_unit < 1:
        raise ValueError(f"items_per_unit is {items_per_unit}, expected at least 1")
    return tuple(
        UnitPlan(unit_name(first + start // items_per_unit), chunk, len(chunk) * clips_per_item)
        for start in range(0, len(items), items_per_unit)
        for chunk in [tuple(items[start : start + items_per_unit])]
    )


def hash_names(names: Iterable[str]) -> str:
    """Return the SHA-256 (hex) of `names` in order, each ended by a zero byte, which no path contains."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()
