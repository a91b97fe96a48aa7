"""How far a feature or token store is, in one line, whatever one call did of it."""

from __future__ import annotations

from deltactl.artifacts import INDEX, read_quarantine
from deltactl.errors import ArtifactError
from deltactl.featurize.index import StoreIndex
from deltactl.locations import Location


def state_of(root: Location, index: StoreIndex | None) -> str:
    """Return the line for a store of this index; None where there are no groups."""
    if index is None:
        return f"{root} holds no views yet"
    entries = [(unit, entry) for groups in index.views.values() for unit, entry in groups.items()]
    rows = sum(len(index.keys[unit]) for unit, _ in entries)
    invalid = sum(len(entry.invalid) for _, entry in entries)
    note = index.unfinished_note()
    clips = sum(map(len, index.keys.values()))
    return (
        f"{root} is {'complete' if note is None else 'unfinished'}: {len(index.views):,} views of {clips:,} clips, "
        f"{rows - invalid:,} readable and {invalid:,} not, {len(read_quarantine(root)):,} in quarantine"
        f"{'' if note is None else f'; {note}'}"
    )


def state_there(root: Location) -> str | None:
    """Return the line for the store as it lies there; None where there is none that can be read."""
    if not (root / INDEX).exists():
        return None
    try:
        return state_of(root, StoreIndex.read(root))
    except ArtifactError:
        return None
