"""Reads every byte of a set of shards against its checksums, and names what is damaged, missing or left over.

The hash of each tar stands in its sidecar and in the index; sidecars, header and index carry a seal. Costs one read of
the set, at the rate of SHA-256 (1 to 2 GB/s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, read_header, read_quarantine
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.ingest.shards import (
    IndexedShard,
    Sidecar,
    finish,
    finished_units,
    read_indexed,
    read_sidecar,
    stream_shard,
)
from deltactl.ingest.tars import REMEDY
from deltactl.locations import LONGEST_NAME, Location, cut_name


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that is not as it should be."""

    kind: Literal["damaged", "missing", "left over"]
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
        """Whether data is lost; what is left over does no harm."""
        return self.kind != "left over"


def verify_shards(root: Location, advance: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a set of shards; `advance` hears of each shard that was read."""
    names = set(root.list())
    yield from check_sealed(root, HEADER, read_header)
    indexed: dict[str, IndexedShard] | None = None
    if INDEX in names:
        try:
            indexed = read_indexed(root)
        except DamagedError as error:
            yield Finding.of(error, root, INDEX)
    else:
        yield Finding("missing", INDEX, "the ingest has not ended, or the file is lost")
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
    for name in sorted(names - known):
        yield Finding("left over", name, "no part of a set of shards")
    yield from _verify_quarantine(root, sound if indexed is not None and len(sound) == len(units) else None)
    yield from find_staging(root)


def repair_shards(root: Location, findings: list[Finding]) -> list[str]:
    """Take damaged shards out of the set, rebuild index and quarantine, and return what is left to do.

    A damaged header cannot be repaired: ArtifactError.
    """
    header = next((finding for finding in findings if finding.path == HEADER and finding.harmful), None)
    if header is not None:
        raise ArtifactError(f"{root / HEADER} cannot be made again from the shards; run ingest into another folder")
    units = sorted({finding.unit for finding in findings if finding.harmful and finding.unit})
    for unit in units:
        (root / f"{unit}.json").remove()
        (root / f"{unit}.tar").remove()
    finish(root)
    if not units:
        return []
    (root / INDEX).remove()
    command = read_header(root).provenance.get("command", "deltactl ingest")
    return [f"took out {', '.join(units)}; to make them again, run: {command}"]


def check_sealed(root: Location, name: str, read: Callable[[Location], object]) -> Iterator[Finding]:
    """Yield a finding where a sealed file of an artifact cannot be read."""
    try:
        read(root)
    except DamagedError as error:
        yield Finding.of(error, root, name)
    except ArtifactError as error:
        yield Finding("missing", name, str(error))


def find_staging(root: Location) -> Iterator[Finding]:
    """Yield what processes that were killed left beside an artifact; the next run of the stage removes it."""
    if root.is_local:
        staging = root.path.parent / f".{cut_name(root.name, LONGEST_NAME - len('..partial'))}.partial"
        for folder in sorted(staging.iterdir() if staging.is_dir() else []):
            if folder.is_dir():
                yield Finding("left over", f"../{staging.name}/{folder.name}", "of a process that is running, or died")


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
