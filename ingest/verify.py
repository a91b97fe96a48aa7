"""Reads every byte of a set of shards against its checksums, and names what is damaged, missing or left over.

The hash of each tar stands in its sidecar and in the index; sidecars, header and index carry a seal. Costs one read of
the set, at the rate of SHA-256 (1 to 2 GB/s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, read_header, read_quarantine, write_quarantine
from deltactl.claims import FOLDER as CLAIMS
from deltactl.drafts import is_draft
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.ingest.record import is_record, planned_units, read_record, unfinished_note
from deltactl.ingest.shards import (
    IndexedShard,
    ShardSet,
    Sidecar,
    finish,
    finished_units,
    read_indexed,
    read_sidecar,
    stream_shard,
)
from deltactl.ingest.tars import REMEDY
from deltactl.locations import Location
from deltactl.removal import Consent, Removal, refuse
from deltactl.staging import INSIDE, leftovers


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that is not as it should be."""

    kind: Literal["damaged", "missing", "unfinished", "left over"]
    path: str
    """Relative to the artifact."""
    reason: str
    unit: str = ""
    """Name of the unit that must be made again; empty where it is another file."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason if self.reason.startswith(self.path) else f'{self.path}: {self.reason}'}"

    @classmethod
    def of(cls, error: DeltactlError, root: Location, path: str, unit: str = "") -> Finding:
        """Return the finding that an error of a reader amounts to, without the remedy, which is known here."""
        reason = str(error).partition("; run: ")[0].removesuffix(REMEDY).removeprefix(f"{root}/")
        return cls("missing" if " is missing" in reason else "damaged", path, reason, unit)

    @property
    def harmful(self) -> bool:
        """Whether data is lost, or not made yet; what is left over does no harm."""
        return self.kind != "left over"


def verify_shards(root: Location, advance: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a set of shards; `advance` hears of each shard that was read."""
    names = set(root.list(hidden=True))
    yield from check_sealed(root, HEADER, read_header)
    indexed: dict[str, IndexedShard] | None = None
    if INDEX in names:
        try:
            indexed = read_indexed(root)
        except DamagedError as error:
            yield Finding.of(error, root, INDEX)
    else:
        yield from _verify_without_index(root)
    units = sorted({name[:-4] for name in names if name.endswith(".tar")} | set(indexed or finished_units(root)))
    sound: list[Sidecar] = []
    for unit in units:
        for finding in _verify_unit(root, unit, names, indexed):
            if isinstance(finding, Sidecar):
                sound.append(finding)
            else:
                yield finding
        if advance is not None:
            advance(1)
    known = {HEADER, INDEX, QUARANTINE, *(f"{unit}.{end}" for unit in units for end in ("tar", "json"))}
    for name in sorted(name for name in names - known if not is_in_use(name)):
        if is_record(name):
            yield from check_sealed(root, name, partial(read_record, number=int(name[8:-5])))
            continue
        yield Finding("left over", name, "no part of a set of shards")
    yield from _verify_quarantine(root, sound if indexed is not None and len(sound) == len(units) else None)
    yield from find_staging(root)


def repair_shards(root: Location, findings: Sequence[Finding], consent: Consent = refuse) -> list[str]:
    """Take damaged shards out of the set, rebuild index and quarantine, and return what is left to do.

    `consent` is asked before a shard is taken out: whoever has lost its sources may have nothing else of it. An index
    is written only where all shards of the plan are there. A damaged header cannot be repaired: ArtifactError.
    """
    header = next((finding for finding in findings if finding.path == HEADER and finding.harmful), None)
    if header is not None:
        raise ArtifactError(f"{root / HEADER} cannot be made again from the shards; run ingest into another folder")
    units = sorted({finding.unit for finding in findings if finding.harmful and finding.unit})
    files = [root / f"{unit}.{end}" for unit in units for end in ("json", "tar")]
    consent([Removal.of(file, "damaged, to be made again from its sources") for file in files if file.exists()])
    if units:
        (root / INDEX).remove()
    for file in files:
        file.remove()
    for finding in findings:
        if is_record(finding.path) and finding.harmful:
            (root / finding.path).remove()  # ingest makes it up from the shards
    done = [f"took out {', '.join(units)}"] if units else []
    if any(finding.path == INDEX and finding.kind == "damaged" for finding in findings):
        (root / INDEX).remove()
    shards = ShardSet.open(root)
    if set(planned_units(shards)) <= set(finished_units(root)):
        finish(root)
        return done or ["rebuilt index and quarantine"]
    write_quarantine(root, [entry for unit in shards.units for entry in shards.sidecar(unit).quarantined])
    return [*done, str(unfinished_note(shards))]


def check_sealed(root: Location, name: str, read: Callable[[Location], object]) -> Iterator[Finding]:
    """Yield a finding where a sealed file of an artifact cannot be read."""
    try:
        read(root)
    except DamagedError as error:
        yield Finding.of(error, root, name)
    except ArtifactError as error:
        yield Finding("missing", name, str(error))


def find_staging(root: Location) -> Iterator[Finding]:
    """Yield the drafts in and beside an artifact; those of dead processes go when something is written there again."""
    for path, state in leftovers(root):
        yield Finding("left over", path, state)


def is_in_use(name: str) -> bool:
    """Whether a name belongs to processes at work: claims, and drafts, of which `find_staging` tells."""
    return name in (CLAIMS, INSIDE) or is_draft(name)


def _verify_without_index(root: Location) -> Iterator[Finding]:
    """Tell a set whose index is lost from one whose ingest has not ended."""
    try:
        shards = ShardSet.open(root)
        note = unfinished_note(shards)
        lost = set(planned_units(shards)) <= set(finished_units(root))
    except (ArtifactError, FileNotFoundError):
        yield Finding("unfinished", INDEX, "the ingest has not ended, or the file is lost")
        return
    yield Finding("missing", INDEX, "all shards are there") if lost else Finding("unfinished", INDEX, str(note))


def _verify_unit(
    root: Location, unit: str, names: set[str], indexed: dict[str, IndexedShard] | None
) -> Iterator[Finding | Sidecar]:
    tar, sidecar_name = f"{unit}.tar", f"{unit}.json"
    if sidecar_name not in names:
        if indexed is not None and unit in indexed:
            yield Finding("missing", sidecar_name, "the index names this shard", unit)
        else:
            yield Finding("left over", tar, "a tar without its sidecar, which does not count")
        return
    try:
        sidecar = read_sidecar(root, unit)
    except ArtifactError as error:
        yield Finding.of(error, root, sidecar_name, unit)
        return
    if indexed is not None and indexed.get(unit) != IndexedShard.of(sidecar):
        reason = "it is not the shard that the index names" if unit in indexed else "the index does not name it"
        yield Finding("damaged", INDEX, f"{unit}: {reason}; run ingest again to rebuild the index")
    if tar not in names:
        yield Finding("missing", tar, "its sidecar is there", unit)
        return
    try:
        for _ in stream_shard(root, sidecar):
            pass
    except ArtifactError as error:
        yield Finding.of(error, root, tar, unit)
        return
    yield sidecar


def _verify_quarantine(root: Location, sidecars: list[Sidecar] | None) -> Iterator[Finding]:
    """Compare the quarantine with the sidecars that it was made from, where all of them are sound."""
    try:
        there = read_quarantine(root)
    except DamagedError as error:
        yield Finding.of(error, root, QUARANTINE)
        return
    if sidecars is None:
        return
    expected = [entry for sidecar in sidecars for entry in sidecar.quarantined]
    if set(there) != set(expected):
        yield Finding("damaged", QUARANTINE, f"{len(there)} entries, but the sidecars hold {len(expected)}, or others")
