"""What a set of shards was planned from: the names of its sources, generation by generation.

    SHARDS/sources-001.json     the sources of the first generation, in the order of the plan; of an evaluation set, its
                                clips. Written before the first shard
    SHARDS/sources-002.json …   those that came later, in units of their own

So the units of what is there never change when sources are added, it is known how many units there will be, and what is
added, gone or changed has a name. Sets of earlier versions have no record (see `growth`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltactl.artifacts import HEADER, canonical_json, how_to_end, read_header, read_sealed, seal
from deltactl.errors import ArtifactError, DamagedError
from deltactl.fields import Fields
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.units import hash_names, unit_name
from deltactl.locations import Location

FORMAT = 1
VIDEOS = "videos"
"""What the identity of a store that was made straight from videos says of them: a value of this name."""


@dataclass(frozen=True)
class Generation:
    """The sources that were added together; those of the first are what the set began with."""

    names: tuple[str, ...]
    """Paths of sources, or keys of an evaluation set's clips, in the order of the plan."""
    bytes: tuple[int | None, ...] = ()
    """Size of each source's file; None for what is no file, or was not looked at."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Files that are copies of, or links to, a source of this or an earlier generation, which stands for them."""
    columns: tuple[str | None, ...] = ()
    """Mark of the columns that each source has in a file (`video.sidecars`), where any are taken; None: none."""

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        sizes = list(self.bytes) or [None] * len(self.names)
        columns = {"columns": list(self.columns)} if self.columns else {}
        return {"format": FORMAT, "names": list(self.names), "bytes": sizes, "copies": dict(self.copies), **columns}

    @classmethod
    def of(cls, value: Fields) -> Generation:
        """Return what `to_json` wrote.

        Raises:
            DamagedError: it is not that.
        """
        names, sizes = value.texts("names"), value.array("bytes")
        if len(sizes) != len(names) or any(size is not None and not isinstance(size, int) for size in sizes):
            raise value.wrong("bytes", sizes, "a size or null for each name")
        marks = value.array("columns", len(names)) if "columns" in value else []
        if any(mark is not None and not isinstance(mark, str) for mark in marks):
            raise value.wrong("columns", marks, "a text or null for each name")
        return cls(tuple(names), tuple(sizes), value.text_map("copies"), tuple(marks))

    def entry(self, units: int) -> dict[str, Any]:
        """Return what `artifact.json` says about a generation that was added."""
        return {"sources": len(self.names), "sources_sha256": hash_names(self.names), "units": units}


def record_name(number: int) -> str:
    """Return the file of a generation, counted from 1."""
    return f"sources-{number:03d}.json"


def is_record(name: str) -> bool:
    """Return whether a file of a set of shards is such a record."""
    return name.startswith("sources-") and name.endswith(".json") and name[8:-5].isdigit()


def read_record(root: Location, number: int) -> Generation | None:
    """Return a generation's record; None if there is none.

    Raises:
        DamagedError: it is damaged.
    """
    try:
        value = read_sealed(root / record_name(number))
    except FileNotFoundError:
        return None
    if (found := value.integer("format")) != FORMAT:
        raise ArtifactError(f"{root / record_name(number)} has format {found}; this program reads {FORMAT}")
    return Generation.of(value)


def write_record(root: Location, number: int, content: Mapping[str, Any]) -> None:
    """Write a generation's record, the JSON of a `Generation`, unless it says the same already."""
    data = canonical_json(seal(content))
    place = root / record_name(number)
    try:
        if place.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    place.write_bytes(data)


def recorded(root: Location) -> tuple[Generation, ...] | None:
    """Return the generations of the set at `root` that are recorded; None where there is no set, or no record."""
    if not (root / HEADER).exists():
        return None
    generations: list[Generation] = []
    for number in range(1, len(read_header(root).generations) + 2):
        generation = read_record(root, number)
        if generation is None:
            if number == 1:
                return None
            raise DamagedError(f"{root / record_name(number)} is missing; it names the sources that were added then")
        generations.append(generation)
    return tuple(generations)


def planned_units(shards: ShardSet, additions: int | None = None) -> list[str]:
    """Return all units that a set has once its stage has ended; those up to its first so many additions where given.

    Where a set of an earlier version does not tell how many it will have: those it has, and one more.
    """
    entries = shards.generations if additions is None else shards.generations[:additions]
    if shards.complete and len(entries) == len(shards.generations):
        return shards.units
    first = _first_units(shards)
    if first is None and shards.complete:
        first = len(shards.units) - sum(int(entry["units"]) for entry in shards.generations)
    if first is None:
        return [*shards.units, unit_name(int(shards.units[-1]) + 1 if shards.units else 0)]
    return [unit_name(number) for number in range(first + sum(int(entry["units"]) for entry in entries))]


def units_of_videos(videos: Fields, additions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all units of a store made straight from videos, by what its identity says of them, and of what came since.

    Raises:
        DamagedError: it does not say so.
    """
    per_unit = max(1, videos.integer("shard_clips") // videos.integer("clips"))
    first = -(-videos.integer("sources") // per_unit)
    return [unit_name(number) for number in range(first + sum(int(entry["units"]) for entry in additions))]


def unfinished_note(shards: ShardSet) -> str | None:
    """Return what to say of a set whose stage has not ended; None where it has."""
    if shards.complete:
        return None
    planned = len(planned_units(shards))
    of = f" of {planned:,}" if _first_units(shards) is not None else ""
    return f"{shards.root} is unfinished: {len(shards.units):,}{of} shards are there; {how_to_end(shards.root)}"


def _first_units(shards: ShardSet) -> int | None:
    """Return how many units the first generation has; None where nothing says so."""
    values = shards.identity.values
    if "shard_clips" not in values:
        return None
    sources, per_unit = values.get("sources"), max(1, int(values["shard_clips"]) // int(values.get("clips", 1)))
    if not isinstance(sources, int):
        record = read_record(shards.root, 1)
        if record is None:
            return None
        sources = len(record.names)
    return -(-sources // per_unit)
