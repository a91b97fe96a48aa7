"""Puts the groups of a token store into packs, whose inodes they share; and takes packs apart again.

A stage publishes a group for each shard, as ever, so that what is killed loses a shard at most. As soon as the groups
of all of 64 neighbouring shards are there, whoever made the last one makes their pack: its rows are those of the
groups, in the order of the shards, so that it has the same bytes whoever makes it, and whenever. It is published whole;
then the packs and groups that it takes the place of go, the groups last, since a group by itself counts before one in a
pack. So a process can die at any point. Where a shard is made again, or shards are added, a new pack takes the old
one's place.

Costs a second pass over the tokens, a small part of the features they stand for: 200 MB a pack at 8 frames with one
token each, 768 wide.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.artifacts import seal
from deltactl.errors import DamagedError
from deltactl.featurize.store.array_files import (
    CHECKSUM_BYTES,
    array_metadata,
    checksum,
    chunk_bytes,
    index_bytes,
    write_array,
)
from deltactl.featurize.store.carried import COLUMNS
from deltactl.featurize.store.finish import GroupFile, read_group_files, read_packed
from deltactl.featurize.store.group import GroupHandle
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import CLIPS, GROUP_FILE, ArraySpec, Layout, group_name, view_name
from deltactl.featurize.store.packs import (
    Listing,
    Member,
    Pack,
    Packs,
    pack_name,
    range_name,
    range_of_pack,
    verify_command,
)
from deltactl.featurize.store.writer import canonical_metadata
from deltactl.locations import Location, storage_errors
from deltactl.reading import parse_json
from deltactl.staging import discard_folders, publish_folder


class Packing:
    """Packs the groups of a store while a stage makes them."""

    def __init__(self, root: Location, layout: Layout, units: Iterable[str], groups: Iterable[tuple[int, str]]) -> None:
        """`units`: the shards that a whole view has groups of; `groups`: those that this process may make."""
        self._root = root
        self._packed = layout.packed
        self._units: dict[str, set[str]] = {}
        for unit in units:
            self._units.setdefault(range_name(unit), set()).add(unit)
        self._left = Counter((view, range_name(unit)) for view, unit in groups)

    def passed(self, view: int, unit: str) -> None:
        """Hear that a group is published, or cannot be; pack it and its neighbours if all of them are there."""
        shards = range_name(unit)
        self._left[view, shards] -= 1
        if not self._packed or self._left[view, shards]:
            return
        # Other processes may have made the others, or be at it: then one of them is the last.
        if self._units.get(shards, set()) <= _Range.of(self._root, view, shards).there:
            pack_range(self._root, view, shards)


def pack_store(root: Location, index: StoreIndex) -> None:
    """Pack what an index says is whole: of each view, the groups of neighbouring shards of which none is to come."""
    if not index.layout.packed:
        return
    listing = Listing.of(root)
    expected: dict[str, set[str]] = {}
    for unit in index.expected:
        expected.setdefault(range_name(unit), set()).add(unit)
    for view, groups in index.views.items():
        for shards in sorted({range_name(unit) for unit in listing.units.get(view, ())}):
            if expected.get(shards, set()) <= groups.keys():
                pack_range(root, view, shards)


def pack_range(root: Location, view: int, shards: str) -> None:
    """Put the groups of neighbouring shards (`range_name`) that are there into one pack.

    Raises:
        DamagedError: one of them is damaged.
    """
    while True:
        seen = _Range.of(root, view, shards)
        if not seen.units and len(seen.packs) < 2:
            return
        try:
            groups = list(seen.groups())
            new = _publish(root, view, groups)
        except (DamagedError, FileNotFoundError):
            if _Range.of(root, view, shards) == seen:
                raise
            continue  # another process packs them, too
        discard_folders(root, [group_name(view, name) for name in seen.packs if name != new.name])
        # One that was made again meanwhile stays, for the next pack.
        same = [group for group in groups if group.unit in seen.units and _hash(root, view, group.unit) == group.sha256]
        discard_folders(root, [group_name(view, group.unit) for group in same])


def unpack(pack: Pack, units: Sequence[str]) -> None:
    """Publish some of the groups of a pack by themselves, and remove the pack with the others.

    Raises:
        DamagedError: one of them is damaged.
    """
    for group in _packed(pack, units):
        with publish_folder(pack.root, group_name(pack.view, group.unit), marker=GROUP_FILE) as folder:
            _write_arrays(folder, [group])
            (folder / GROUP_FILE).write_bytes(canonical_metadata(group.record))
    discard_folders(pack.root, [pack.path])


@dataclass(frozen=True)
class _Range:
    """The folders of a view whose groups share a pack."""

    root: Location
    view: int
    units: tuple[str, ...]
    """Groups by themselves."""
    packs: tuple[str, ...]

    @classmethod
    def of(cls, root: Location, view: int, shards: str) -> _Range:
        names = (root / view_name(view)).list()
        return cls(
            root,
            view,
            tuple(name for name in names if name.isdigit() and range_name(name) == shards),
            tuple(name for name in names if range_of_pack(name) == shards),
        )

    @property
    def there(self) -> set[str]:
        """The shards whose group is there."""
        return set(self.units).union(*(pack.members for pack in self._read()))

    def groups(self) -> Iterator[_Group]:
        """Yield the groups, in the order of their shards; where one is there twice, that by itself is newer."""
        found = {group.unit: group for pack in self._read() for group in _packed(pack, list(pack.members))}
        for unit in self.units:
            if self.root.is_local or (self.root / group_name(self.view, unit) / GROUP_FILE).exists():
                found[unit] = _by_itself(self.root, self.view, unit)
        for unit in sorted(found, key=int):
            yield found[unit]

    def _read(self) -> list[Pack]:
        read = (Packs(self.root).get(self.view, name) for name in self.packs)
        return [pack for pack in read if pack is not None]


@dataclass(frozen=True)
class _Group:
    """A group that goes into a pack, or comes out of one."""

    unit: str
    sha256: str
    """Of its `zarr.json`."""
    record: Mapping[str, Any]
    """Its sealed attributes."""
    file: GroupFile
    handle: GroupHandle


def _by_itself(root: Location, view: int, unit: str) -> _Group:
    data = (root / group_name(view, unit) / GROUP_FILE).read_bytes()
    (file,) = read_group_files(root, [(view, unit)])
    record = parse_json(data)["attributes"]
    if canonical_metadata(record) != data:
        place = root / group_name(view, unit) / GROUP_FILE
        raise DamagedError(f"{place} is damaged: it is not as deltactl writes it; {verify_command(root)}")
    handle = GroupHandle(root, view, unit, file.keys, file.layout, file.sha256, Packs(root, none=True))
    return _Group(unit, file.sha256, record, file, handle)


def _packed(pack: Pack, units: Sequence[str]) -> Iterator[_Group]:
    records, packs = pack.records(), Packs(pack.root)
    for unit, file in read_packed(pack, units).items():
        handle = GroupHandle(pack.root, pack.view, unit, file.keys, file.layout, file.sha256, packs)
        yield _Group(unit, file.sha256, records[unit], file, handle)


def _hash(root: Location, view: int, unit: str) -> str | None:
    try:
        return hashlib.sha256((root / group_name(view, unit) / GROUP_FILE).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _publish(root: Location, view: int, groups: Sequence[_Group]) -> Pack:
    """Publish the pack of some groups, and return it."""
    members, row = [], 0
    for group in groups:
        clips = len(group.file.keys)
        members.append(Member(group.unit, row, clips, group.sha256, group.file.shard_sha256))
        row += clips
    layout, name = groups[0].file.layout, pack_name(members)
    if any(group.file.layout != layout for group in groups):
        raise DamagedError(f"{root / view_name(view)} holds tokens of several shapes; {verify_command(root)}")
    with publish_folder(root, group_name(view, name), marker=GROUP_FILE) as folder:
        _write_arrays(folder, groups, {"groups": [group.record for group in groups]})
        arrays = sorted(layout.arrays(row))
        sealed = seal(
            {
                "format": layout.format,
                "layout": layout.to_json(),
                "view": view,
                "groups": [member.to_json() for member in members],
                "files": {
                    f"{array}/{GROUP_FILE}": hashlib.sha256((folder / array / GROUP_FILE).read_bytes()).hexdigest()
                    for array in arrays
                },
            }
        )
        (folder / GROUP_FILE).write_bytes(canonical_metadata(sealed))
    return Pack.read(root, view, name)


def _write_arrays(folder: Path, groups: Sequence[_Group], attributes: Mapping[str, Any] | None = None) -> None:
    """Write the arrays of groups, one after the other, `attributes` with that of the clips."""
    layout = groups[0].file.layout
    rows = sum(len(group.file.keys) for group in groups)
    specs = layout.arrays(rows)
    _copy_chunks(folder / layout.kind, specs[layout.kind], groups, [group.handle for group in groups])
    if COLUMNS in specs:
        _copy_chunks(folder / COLUMNS, specs[COLUMNS], groups, [group.handle.columns() for group in groups])
    write_array(folder / CLIPS, specs[CLIPS], np.concatenate([group.handle.table() for group in groups]), attributes)


def _copy_chunks(place: Path, spec: ArraySpec, groups: Sequence[_Group], handles: Sequence[GroupHandle]) -> None:
    """Write an array of the chunks that groups have of it, one after the other."""
    with storage_errors(place, "write"):
        place.mkdir(parents=True)
        (place / GROUP_FILE).write_bytes(array_metadata(spec))
        if spec.shape[0]:
            with (place / spec.file(0)).open("wb") as file:
                for group, handle in zip(groups, handles, strict=True):
                    file.write(_chunks(group, handle))
                file.write(index_bytes(spec, spec.shape[0]))


def _chunks(group: _Group, handle: GroupHandle) -> bytes:
    """Return the chunks of a group as they lie in a file, each with its checksum.

    Raises:
        DamagedError: one of them does not match it.
    """
    if not group.file.keys:
        return b""
    array, keys = handle.array(), group.file.keys
    place, stored = array.file(0), chunk_bytes(array.spec) + CHECKSUM_BYTES
    first = array.place(0)
    try:
        data = place.read_range(first * stored, (first + len(keys)) * stored)
    except FileNotFoundError as error:
        raise DamagedError(f"{place} is missing; {group.handle.remedy}") from error
    for row, key in enumerate(keys):
        chunk = data[row * stored : (row + 1) * stored]
        if len(chunk) != stored or checksum(chunk[:-CHECKSUM_BYTES]) != chunk[-CHECKSUM_BYTES:]:
            raise DamagedError(f"{place}: clip {key!r}, frame 0 does not match its checksum; {group.handle.remedy}")
    return data
