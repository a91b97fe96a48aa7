"""Finds files that are one and the same: links, and copies with the same content.

In come files with their sizes; out comes, for each copy, the file that it is a copy of, the first by name. Cost: one
`stat` a file (16 at a time, since shared file systems answer slowly), and reads only where sizes are equal: 64 kB at
both ends, then, where those are equal too, the whole files. Folders of frames are not compared.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

THREADS = 16
CHUNK = 4096
"""Files that a thread looks at in a row."""
END_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file system says about a file."""

    bytes: int
    place: tuple[int, int]
    """Device and inode, which links share."""


def states_of(root: Path, names: Sequence[str]) -> dict[str, FileState]:
    """Return size and place of the regular files among these names below `root`, through links."""

    def look(part: Sequence[str]) -> list[tuple[str, FileState]]:
        return [(name, state) for name in part if (state := _state(root / name)) is not None]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(look, [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)])
        return {name: state for part in parts for name, state in part}


def find_copies(root: Path, states: Mapping[str, FileState], first: Iterable[str] = ()) -> dict[str, str]:
    """Return, for each file that equals another, which one that is: one of `first` where it may be, else by name.

    None of `first`, which are taken already, is called a copy. Empty files, and files that cannot be read, are not
    compared: what is wrong with each is told when it is its turn.
    """
    taken = list(dict.fromkeys(first))
    order = [*taken, *sorted(states.keys() - set(taken))]
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in order:
        if name in states and states[name].bytes:
            groups[states[name].bytes].append(name)
    copies: dict[str, str] = {}
    known = set(taken)
    for group in groups.values():
        if len(group) > 1 and not known.issuperset(group):
            copies.update(_copies_in(root, states, group, known))
    return copies


def _copies_in(root: Path, states: Mapping[str, FileState], group: list[str], taken: set[str]) -> dict[str, str]:
    """Return the copies among files of one size."""
    copies: dict[str, str] = {}
    by_place: dict[tuple[int, int], str] = {}
    for name in group:
        original = by_place.setdefault(states[name].place, name)
        if original != name and name not in taken:
            copies[name] = original
    left = [[name for name in group if name not in copies]]
    for whole in (False, True):
        left = [same for names in left for same in _alike(root, names, whole=whole)]
    for same in left:
        copies.update({name: same[0] for name in same[1:] if name not in taken})
    # A link to a copy is a copy of what that is a copy of.
    return {name: copies.get(original, original) for name, original in copies.items()}


def _alike(root: Path, names: list[str], *, whole: bool) -> list[list[str]]:
    """Return the groups, of two files or more, whose content (or its two ends) is the same."""
    if len(names) < 2:
        return []
    groups: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(THREADS) as pool:
        for name, digest in zip(names, pool.map(lambda name: _hash(root / name, whole=whole), names), strict=True):
            if digest is not None:
                groups[digest].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _hash(path: Path, *, whole: bool) -> str | None:
    """Return the hash of a file, or of its first and last bytes; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").hexdigest()
            start = file.read(END_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - END_BYTES))
            return hashlib.sha256(start + file.read(END_BYTES)).hexdigest()
    except OSError:
        return None


def _state(path: Path) -> FileState | None:
    import stat

    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(found.st_size, (found.st_dev, found.st_ino)) if stat.S_ISREG(found.st_mode) else None
