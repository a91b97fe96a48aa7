"""Finds files that are one and the same: links, and copies with the same content.

Takes files with their sizes; returns, for each copy, the file that it is a copy of, the first by name. Cost: one `stat`
a file (16 at a time, since shared file systems answer slowly). Only files of equal size are read: 64 kB at both ends,
then, if those are equal too, the whole files. Folders of frames are not compared.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

THREADS = 16
"""More than cores: they wait for shared file systems."""
CHUNK = 4096
"""Files that a thread looks at in a row."""
END_BYTES = 1 << 16
"""Read at both ends first: hashing whole files would read the data set a second time."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file system says about a file."""

    bytes: int
    inode: tuple[int, int] | None
    """Device and inode, which links share; None for a part of a file, which is nobody's copy."""


def states_of(root: Path, names: Sequence[str]) -> dict[str, FileState]:
    """Return size and place of the regular files among these names below `root`, through links."""

    def look(part: Sequence[str]) -> list[tuple[str, FileState]]:
        return [(name, state) for name in part if (state := _state(root / name)) is not None]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(look, [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)])
        return {name: state for part in parts for name, state in part}


def find_copies(root: Path, states: Mapping[str, FileState], first: Iterable[str] = ()) -> dict[str, str]:
    """Return, for each file that equals another, which one that is: one of `first` if it may be, else by name.

    None of `first`, which are taken already, is called a copy. Empty files, and files that cannot be read, are not
    compared: what is wrong with each is told when it is its turn.
    """
    taken = dict.fromkeys(name for name in first if name in states)
    copies: dict[str, str] = {}
    by_inode: dict[tuple[int, int], str] = {}
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in [*taken, *sorted(states.keys() - taken.keys())]:
        state = states[name]
        if state.inode is None:
            continue
        original = by_inode.setdefault(state.inode, name)
        if original == name and state.bytes:
            by_size[state.bytes].append(name)
        elif original != name and name not in taken:
            copies[name] = original
    groups = [names for names in by_size.values() if not taken.keys() >= set(names[1:])]
    for whole in (False, True):
        groups = _alike(root, groups, whole=whole)
    copies.update({name: names[0] for names in groups for name in names[1:] if name not in taken})
    # A link to a copy is a copy of what that is a copy of.
    return {name: copies.get(original, original) for name, original in copies.items()}


def _alike(root: Path, groups: Sequence[Sequence[str]], *, whole: bool) -> list[list[str]]:
    """Return the groups, of two files or more, whose content (or its two ends) is the same; in their order."""
    names = [(number, name) for number, group in enumerate(groups) if len(group) > 1 for name in group]
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda each: _hash(root / each[1], whole=whole), names)
        for (number, name), digest in zip(names, digests, strict=True):
            if digest is not None:
                found[number, digest].append(name)
    return [group for group in found.values() if len(group) > 1]


def _hash(path: Path, *, whole: bool) -> str | None:
    """Return the hash of a file, or of its first and last bytes; None if it cannot be read."""
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
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(found.st_size, (found.st_dev, found.st_ino)) if stat.S_ISREG(found.st_mode) else None
