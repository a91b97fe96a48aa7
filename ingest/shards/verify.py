"""Reads every byte of a set of shards against its checksums, and names what is damaged, missing or left over.

The hash of each tar stands in its sidecar and in the index; sidecars, header and index carry a seal. Costs one read of
the set, at the rate of SHA-256 (1 to 2 GB/s).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, read_quarantine, write_quarantine
from deltactl.errors import ArtifactError
from deltactl.ingest.record import is_record, planned_units, read_record, unfinished_note
from deltactl.ingest.shards.columns import Columns, checked_clip, columns_of_identity
from deltactl.ingest.shards.format import IndexedShard, ShardSet, finish, read_indexed, stream_shard
from deltactl.ingest.shards.sidecars import Sidecar, finished_units, read_sidecar
from deltactl.locations import Location
from deltactl.removal import Consent, Removal, refuse
from deltactl.verification import Check, Finding


def verify_shards(root: Location, advance: Callable[[int], None] | None = None) -> list[Finding]:
    """Return what is wrong with a set of shards; `advance` hears of each shard that was read."""
    check = Check(root, advance)
    names = set(root.list(hidden=True))
    header = check.header()
    values = {} if header is None else header.identity.values
    columns = check.read(HEADER, lambda: columns_of_identity(values, root)) or ()
    indexed: Mapping[str, IndexedShard] | None = None
    if INDEX in names:
        indexed = check.read(INDEX, lambda: read_indexed(root))
    else:
        _check_lost_index(check)
    units = sorted({name[:-4] for name in names if name.endswith(".tar")} | set(indexed or finished_units(root)))
    sidecars = []
    for unit in units:
        sidecars.append(_check_unit(check, unit, names, indexed, columns))
        check.advance(1)
    known = {HEADER, INDEX, QUARANTINE, *(f"{unit}.{end}" for unit in units for end in ("tar", "json"))}
    records = {name for name in names if is_record(name)}
    for name in sorted(records):
        check.read(name, partial(read_record, root, number=int(name[8:-5])))
    check.left_over(names - known - records, "no part of a set of shards")
    # The quarantine is made from the sidecars, which tell what it holds if all of them are sound.
    there = check.read(QUARANTINE, lambda: read_quarantine(root))
    sound = [sidecar for sidecar in sidecars if sidecar is not None]
    if there is not None and indexed is not None and len(sound) == len(units):
        expected = [entry for sidecar in sound for entry in sidecar.quarantined]
        if set(there) != set(expected):
            reason = f"{len(there)} entries, but the sidecars hold {len(expected)}, or others"
            check.add("damaged", QUARANTINE, reason)
    return check.end()


def _check_lost_index(check: Check) -> None:
    """Tell a set whose index is lost from one whose ingest has not ended."""
    try:
        shards = ShardSet.open(check.root)
        note = unfinished_note(shards)
        lost = set(planned_units(shards)) <= set(finished_units(check.root))
    except (ArtifactError, FileNotFoundError):
        note, lost = "the ingest has not ended, or the file is lost", False
    if lost:
        check.add("missing", INDEX, "all shards are there")
    else:
        check.add("unfinished", INDEX, str(note))


def _check_unit(
    check: Check, unit: str, names: set[str], indexed: Mapping[str, IndexedShard] | None, columns: Columns
) -> Sidecar | None:
    """Check a shard, whose clips carry these columns, and its sidecar, which is returned if both are sound."""
    tar, sidecar_name = f"{unit}.tar", f"{unit}.json"
    if sidecar_name not in names:
        if indexed is not None and unit in indexed:
            check.add("missing", sidecar_name, "the index names this shard", unit)
        else:
            check.add("left over", tar, "a tar without its sidecar, which does not count")
        return None
    sidecar = check.read(sidecar_name, lambda: read_sidecar(check.root, unit), unit)
    if sidecar is None:
        return None
    if indexed is not None and indexed.get(unit) != IndexedShard.of(sidecar):
        reason = "it is not the shard that the index names" if unit in indexed else "the index does not name it"
        check.add("damaged", INDEX, f"{unit}: {reason}; run ingest again to rebuild the index")
    if tar not in names:
        check.add("missing", tar, "its sidecar is there", unit)
        return None
    # Every clip is read, and none is kept: the hash is known at the end.
    faults: list[str] = []
    read = check.read(tar, lambda: _read_clips(check.root, sidecar, columns, faults), unit)
    for fault in faults[:1] if read is not None else ():
        check.add("damaged", tar, fault, unit)
    return None if read is None else sidecar


def _read_clips(root: Location, sidecar: Sidecar, columns: Columns, faults: list[str]) -> int:
    """Read the clips of a shard and return how many there are; `faults` hears of those with other columns."""
    count = 0
    for clip in stream_shard(root, sidecar):
        count += 1
        if (fault := checked_clip(clip.columns, columns, len(clip.frames))) is not None:
            faults.append(f"clip {clip.key!r}: {fault}")
    return count


def repair_shards(root: Location, findings: Sequence[Finding], consent: Consent = refuse) -> list[str]:
    """Take damaged shards out of the set, rebuild index and quarantine, and return what is left to do.

    `consent` is asked before a shard is taken out: whoever has lost its sources may have nothing else of it. An index
    is written only when all shards of the plan are there.

    Raises:
        ArtifactError: the header is damaged, which the shards cannot restore.
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
