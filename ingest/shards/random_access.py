"""Reads single clips of a set of shards by their keys, in any order, from any number of threads.

A clip's files lie anywhere in their tar, which is read at the places that its headers name. The headers of a tar are
read once, when its first clip is asked for, and must name the clips of its sidecar. The tar's hash is not computed, for
that would read all of it: `ShardSet.read` and `deltactl verify` do.

Costs 20 µs a file of the headers, once, and then a read of just the files that are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deltactl.errors import DamagedError, SourceError
from deltactl.ingest.shards.columns import SUFFIX
from deltactl.ingest.shards.format import NO_DEPTH, ClipMeta, ShardSet, open_tar, read_columns
from deltactl.ingest.shards.tars import DESCRIPTION, Member, description_of, find_members, group_members
from deltactl.per_process import PerProcess

PICTURES, LABELS = ("jpg", "png"), ("mask.png", "depth.png")


class _Unit(NamedTuple):
    keys: tuple[str, ...]
    members: dict[str, dict[str, Member]]
    """Places of the files of each clip, by key and suffix."""


class RandomAccess:
    """The files of each clip of a set of shards, by unit and key."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._units: dict[str, _Unit] = {}
        self._lock = PerProcess(threading.Lock)

    def keys(self, unit: str) -> tuple[str, ...]:
        """Return the keys of a unit's clips, in order.

        Raises:
            DamagedError: the tar does not hold the clips that its sidecar names.
        """
        return self._of(unit).keys

    def read(self, unit: str, key: str, frames: Sequence[int] | None) -> tuple[ClipMeta, list[tuple[str, bytes]]]:
        """Return a clip's description, and name and bytes of the frames asked for (None: all).

        Raises:
            KeyError: the unit has no such clip.
            DamagedError: the tar does not hold the clips that its sidecar names, or the description is damaged.
            SourceError: the clip has more or fewer frames than its description says.
        """
        members = self._of(unit).members[key]
        images = [f"{number}.{kind}" for number, kind in _numbered(members) if kind in PICTURES]
        place = self.shards.root / f"{unit}.tar"
        with open_tar(place) as file:

            def content(name: str) -> bytes:
                file.seek(members[name].offset)
                return file.read(members[name].size)

            meta = ClipMeta.from_json(content(DESCRIPTION), description_of(key, place))
            if len(images) != len(meta.times):
                raise SourceError(f"it has {len(images)} frames and {len(meta.times)} times")
            chosen = images if frames is None else [images[frame] for frame in frames]
            return meta, [(f"{key}.{name}", content(name)) for name in chosen]

    def columns(self, unit: str, key: str) -> dict[str, np.ndarray]:
        """Return what a clip carries besides its frames; nothing where it carries nothing.

        Raises:
            KeyError: the unit has no such clip.
            DamagedError: the tar does not hold the clips that its sidecar names, or the columns are damaged.
        """
        member = self._of(unit).members[key].get(SUFFIX)
        if member is None:
            return {}
        place = self.shards.root / f"{unit}.tar"
        with open_tar(place) as file:
            file.seek(member.offset)
            return read_columns(file.read(member.size), key, place)

    def labels(self, unit: str) -> list[tuple[str, int]]:
        """Return key and frame of every label in a unit, in order of the keys.

        Raises:
            DamagedError: the tar does not hold the clips that its sidecar names.
        """
        return sorted(
            (key, int(number))
            for key, members in self._of(unit).members.items()
            for number, kind in _numbered(members)
            if kind in LABELS and not (kind == "depth.png" and members[f"{number}.{kind}"].size == len(NO_DEPTH))
        )

    def read_label(self, unit: str, key: str, frame: int) -> bytes:
        """Return the label of a frame as it was stored, one of those that `labels` names."""
        members = self._of(unit).members[key]
        member = next(
            members[f"{number}.{kind}"]
            for number, kind in _numbered(members)
            if kind in LABELS and int(number) == frame
        )
        with open_tar(self.shards.root / f"{unit}.tar") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def _of(self, unit: str) -> _Unit:
        with self._lock.get():
            if unit not in self._units:
                self._units[unit] = self._look(unit)
            return self._units[unit]

    def _look(self, unit: str) -> _Unit:
        place = self.shards.root / f"{unit}.tar"
        sidecar = self.shards.sidecar(unit)
        with open_tar(place) as file:
            found = dict(group_members(find_members(file, place), place))
        if tuple(found) != sidecar.keys:
            raise DamagedError(
                f"{place} is damaged: it holds {len(found)} clips, its sidecar names {sidecar.count}; "
                "remove its sidecar and run ingest again"
            )
        return _Unit(sidecar.keys, found)


def _numbered(members: Mapping[str, Member]) -> list[tuple[str, str]]:
    """Return the number and the kind of each member that is a picture or label of a frame, in order of the numbers."""
    parts = (name.partition(".") for name in members)
    return sorted(((number, kind) for number, _, kind in parts if number.isdecimal()), key=lambda part: int(part[0]))
