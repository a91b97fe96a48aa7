"""Who dropped which views of a store, and when: tells a view that is gone from one that never was.

    STORE/dropped.json      sealed: {"views": [{"view", "call", "bytes", "command", "host", "time"}, …]}, oldest first

Only stores of which a view was dropped have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltactl.artifacts import make_provenance, read_sealed, write_sealed
from deltactl.errors import DamagedError
from deltactl.locations import Location

DROPPED = "dropped.json"


def read_dropped(root: Location) -> list[Mapping[str, Any]]:
    """Return the entries, oldest first; none where no view was dropped, or the file is damaged (`verify` says so)."""
    try:
        return list(read_sealed(root / DROPPED).entries("views"))
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return []


def record_dropped(root: Location, sizes: Mapping[int, int]) -> None:
    """Add an entry for each view that is about to go, with its bytes."""
    facts = {key: value for key, value in make_provenance(()).items() if key in ("command", "host", "time")}
    before = read_dropped(root)
    call = len({entry.get("call") for entry in before}) + 1
    entries = [{"view": view, "call": call, "bytes": size, **facts} for view, size in sorted(sizes.items())]
    write_sealed(root / DROPPED, {"views": [*before, *entries]})


def dropped_note(root: Location, views: Sequence[int] | None = None) -> str | None:
    """Return who dropped these views (all of them: any) last, in words; None where none of them was."""
    entries = [entry for entry in read_dropped(root) if views is None or entry.get("view") in views]
    if not entries:
        return None
    last = entries[-1]
    gone = sorted({int(entry["view"]) for entry in entries if entry.get("call") == last.get("call")})
    what = f"view {gone[0]} was" if len(gone) == 1 else f"views {', '.join(map(str, gone))} were"
    # What was shared says neither the command nor the machine.
    by = f"by `{last['command']}` on {last.get('host')}, " if "command" in last else ""
    return f"{what} dropped {by}{last.get('time')}"
