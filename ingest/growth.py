"""Compares the sources that there are with those that a set of shards was made of, and plans what was added.

Takes the listing of now and the record of the set; returns its generations, with another one where sources came since.
What is gone or has changed is an error that names it: the set's shards stay what their record says. Of files that are
one and the same (`copies`) the one that is taken stands for all: no video is on both sides of a hold-out under two
names. Shards that are added have sidecars of the present format beside older ones, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deltactl.artifacts import HEADER, INDEX, Identity, read_header
from deltactl.errors import IdentityError
from deltactl.generations import check_extends, extend
from deltactl.ingest.copies import FileState, find_copies
from deltactl.ingest.record import Generation, read_record, recorded, write_record
from deltactl.ingest.shards.format import DATA_FORMAT, KIND
from deltactl.ingest.shards.keys import source_name
from deltactl.ingest.shards.sidecars import finished_units, read_sidecar
from deltactl.ingest.units import Plan, hash_names, unit_name
from deltactl.locations import Location
from deltactl.progress import few


@runtime_checkable
class Made(Protocol):
    """What has been made of sources: shards, or a store straight from videos."""

    @property
    def root(self) -> Location:
        """Where it is, or will be."""

    def said(self, identity: Identity) -> Mapping[str, Any]:
        """Return what an identity of its kind says of the sources; nothing where it is of another kind."""

    def bad(self, units: Iterable[str]) -> dict[str, set[str]]:
        """Return, for those of these units that are finished, the names (`keys.source_name`) of bad sources."""


@dataclass(frozen=True)
class MadeShards:
    """The shards at a place."""

    root: Location

    def said(self, identity: Identity) -> Mapping[str, Any]:
        """Return the identity's values."""
        return identity.values

    def bad(self, units: Iterable[str]) -> dict[str, set[str]]:
        """Return the quarantined sources of finished units."""
        finished = set(finished_units(self.root))
        sidecars = (read_sidecar(self.root, unit) for unit in units if unit in finished)
        return {each.unit: {source_name(entry.source) for entry in each.quarantined} for each in sidecars}


def said_before(made: Made, kind: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the identity of what is `made` says of its sources; None where nothing is, or of another kind.

    `kind` holds what it says where it is of the same.
    """
    if not (made.root / HEADER).exists():
        return None
    said = made.said(read_header(made.root).identity)
    return said if all(said.get(key) == value for key, value in kind.items()) else None


def arrange(
    made: Made,
    said: Mapping[str, Any] | None,
    root: Path,
    names: Sequence[str],
    states: Mapping[str, FileState],
    per_unit: int,
) -> tuple[int, tuple[Generation, ...]]:
    """Return how many generations what is `made` has, 0 where nothing is, and those that it is to have.

    `said` is what it says of its sources (`said_before`). `names` are the sources below `root`, in order, `states` what
    is known of their files; `per_unit` of them make a unit.

    Raises:
        IdentityError: sources are gone or have changed.
    """
    shards = made.root
    if said is None:
        copies = find_copies(root, states)  # if another kind is there, whoever claims the folder refuses it
        taken = tuple(name for name in names if name not in copies)
        return 0, (Generation(taken, _sizes(taken, states), copies),)
    there = recorded(shards) or _made_up(shards, said, root, names, states)
    _check(made, there, names, states, per_unit)
    there = tuple(replace(each, bytes=_sizes(each.names, states, before=each.bytes)) for each in there)
    return len(there), _grown(there, root, names, states)


def with_marks(
    made: Made,
    there: int,
    generations: Sequence[Generation],
    marks: Mapping[str, str | None],
    per_unit: int,
) -> tuple[Generation, ...]:
    """Return the generations with the marks of their sources' columns; the first `there` are those of what is `made`.

    Raises:
        IdentityError: columns are not those that finished shards hold.
    """
    changed: dict[str, list[str]] = {}
    for unit, generation, place in _places(generations[:there], per_unit):
        name = generation.names[place]
        if generation.columns and generation.columns[place] != marks[name]:
            changed.setdefault(unit, []).append(name)
    if found := _unlike_finished(made, changed):
        _refuse(made.root, columns=found)
    return tuple(replace(each, columns=tuple(marks[name] for name in each.names)) for each in generations)


def notes_of(there: int, generations: Sequence[Generation]) -> list[str]:
    """Return what to tell of copies, and of sources that were added to the generations that are there."""
    notes = []
    copies = {copy: original for generation in generations for copy, original in generation.copies.items()}
    if copies:
        pairs = [f"{copy} (of {original})" for copy, original in sorted(copies.items())]
        notes.append(f"taken once, copies of other sources or links to them: {len(copies):,}, {few(pairs)}")
    if 0 < there < len(generations):
        added = generations[-1].names
        notes.append(f"added sources, generation {len(generations)}: {len(added):,}, {few(added)}")
    return notes


def keep_record(root: Location, plan: Plan) -> None:
    """Write down what the set at `root` is planned from, and that it has grown, where it has.

    From then on until the added shards are there the set has no index: it is unfinished.
    """
    there = read_header(root).generations
    check_extends(root, there, plan.generations)
    if len(plan.generations) > len(there):
        (root / INDEX).remove()
    for number, content in enumerate(plan.record, start=1):
        write_record(root, number, content)
    extend(root, plan.generations)


def check_clips(root: Location, plan: Plan) -> None:
    """Check that an evaluation set at `root`, if there is one, was made of the clips of a plan.

    Raises:
        IdentityError: it was made of others, which are named.
    """
    if not (root / HEADER).exists():
        return
    found, wanted = read_header(root).identity, Identity(KIND, {"format": DATA_FORMAT, **plan.identity})
    same = Identity(KIND, {**found.values, "sources": wanted.values["sources"]})
    if wanted.differences(found) and not wanted.differences(same):
        record = read_record(root, 1)
        finished = (key for unit in finished_units(root) for key in read_sidecar(root, unit).keys)
        before = dict.fromkeys(record.names if record else finished)
        now = dict.fromkeys(name for content in plan.record for name in content["names"])
        gone = [name for name in before if name not in now]
        new = [name for name in now if name not in before] if record else []
        parts = [f"{few(each)} {_be(each)} {what}" for each, what in ((gone, "gone"), (new, "new")) if each]
        raise IdentityError(
            f"{root} was made of other clips: {'; '.join(parts) or 'their files have other names'}; choose another "
            "--out, or remove it (an evaluation set is taken as a whole)"
        )


def _check(
    made: Made,
    there: Sequence[Generation],
    names: Sequence[str],
    states: Mapping[str, FileState],
    per_unit: int,
) -> None:
    """Refuse sources that are gone, and those that are not what finished shards hold."""
    listed = set(names)
    gone: list[str] = []
    changed: dict[str, list[str]] = {}
    for unit, generation, place in _places(there, per_unit):
        name, size = generation.names[place], generation.bytes[place] if generation.bytes else None
        if name not in listed or (size is not None and name not in states):
            gone.append(name)
        elif size is not None and states[name].bytes != size:
            changed.setdefault(unit, []).append(name)
    new = listed - _known(there) - {copy for generation in there for copy in generation.copies}
    _refuse(made.root, gone, _unlike_finished(made, changed), new)


def _places(generations: Sequence[Generation], per_unit: int) -> Iterator[tuple[str, Generation, int]]:
    """Yield the unit of each source, its generation, and its place in that."""
    first = 0
    for generation in generations:
        for place in range(len(generation.names)):
            yield unit_name(first + place // per_unit), generation, place
        first += -(-len(generation.names) // per_unit)


def _unlike_finished(made: Made, changed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return which of the changed sources, by unit, finished units hold as they were.

    What is not made yet may still change, and what could not be read may have been mended.
    """
    bad = made.bad(changed) if changed else {}
    return [name for unit in changed if unit in bad for name in changed[unit] if source_name(name) not in bad[unit]]


def _grown(
    there: tuple[Generation, ...], root: Path, names: Sequence[str], states: Mapping[str, FileState]
) -> tuple[Generation, ...]:
    """Return the generations, with one more of what is new, if anything is."""
    known = _known(there)
    copies = {
        copy: original
        for generation in there
        for copy, original in generation.copies.items()
        if copy in states and original in states and states[copy].bytes == states[original].bytes
    }
    new = [name for name in names if name not in known and name not in copies]
    if not new:
        return there
    others = {name: state for name, state in states.items() if name not in copies}
    found = find_copies(root, others, first=[name for generation in there for name in generation.names])
    added = tuple(name for name in new if name not in found)
    if added:
        return (*there, Generation(added, _sizes(added, states), found))
    return (*there[:-1], replace(there[-1], copies={**there[-1].copies, **found}))


def _known(there: Sequence[Generation]) -> set[str]:
    return {name for generation in there for name in generation.names}


def _sizes(
    names: Sequence[str], states: Mapping[str, FileState], before: Sequence[int | None] = ()
) -> tuple[int | None, ...]:
    known = before or [None] * len(names)
    return tuple(states[name].bytes if name in states else size for name, size in zip(names, known, strict=True))


def _refuse(
    shards: Location,
    gone: Sequence[str] = (),
    changed: Sequence[str] = (),
    new: Collection[str] = (),
    columns: Sequence[str] = (),
) -> None:
    if not gone and not changed and not columns:
        return
    parts = [f"{few(gone)} {_be(gone)} gone"] if gone else []
    parts += (
        [f"{few(changed)} {'has' if len(changed) == 1 else 'have'} another size than when ingested"] if changed else []
    )
    parts += [f"the columns of {few(columns)} are not those that were ingested"] if columns else []
    parts += [f"{few(sorted(new))} {_be(sorted(new))} new"] if new else []
    raise IdentityError(
        f"{shards} was made from other sources: {'; '.join(parts)}; sources may be added, not taken away or replaced: "
        "put them back as they were (in the folder, and in --split-file and --exclude), or choose another --out"
    )


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


# --- sets of earlier versions, without a record ----------------------------------------------------------------------


def _made_up(
    shards: Location, said: Mapping[str, Any], root: Path, names: Sequence[str], states: Mapping[str, FileState]
) -> tuple[Generation, ...]:
    """Return the first generation of a set that has no record: those of the names whose hash the identity holds.

    All of them, all but copies (of a set that was killed before it could write its record), or those that the finished
    shards name; raises IdentityError if it is none of these.
    """
    wanted = said.get("sources_sha256")
    if hash_names(names) == wanted:
        return (Generation(tuple(names)),)
    copies = find_copies(root, states)
    originals = tuple(name for name in names if name not in copies)
    if hash_names(originals) == wanted:
        return (Generation(originals, copies=copies),)
    used: set[str] = set()
    quarantined: set[str] = set()
    for unit in finished_units(shards):
        sidecar = read_sidecar(shards, unit)
        used.update(sidecar.source_names(evaluation=False))
        quarantined.update(entry.source for entry in sidecar.quarantined)
    by_name = {source_name(name): name for name in names}
    taken = {by_name[name] for name in used & by_name.keys()} | (quarantined & set(names))
    found = [name for name in names if name in taken]
    if hash_names(found) == wanted:
        return (Generation(tuple(found)),)
    _refuse(shards, sorted((used - by_name.keys()) | (quarantined - set(names))))
    raise IdentityError(
        f"{shards} has {said.get('sources')} sources, of which its shards name {len(found)}, "
        f"and there are {len(names)} now; an earlier version made it, without a list of its sources: end it with just "
        "those first (--split-file names them), or choose another --out"
    )
