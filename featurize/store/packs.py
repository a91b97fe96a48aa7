"""Finds the groups of a token store where they lie: in folders of their own, or many in one, which is a pack.

    STORE/v000/NNNNNN/                  a group by itself, as it is published
    STORE/v000/NNNNNN-NNNNNN-HHHHHHHH/  the groups of those of the 64 shards NNNNNN to NNNNNN that there are
        tokens                          float16 (clip, frame, token, dim), group after group
        clips                           float64 (clip, column), likewise; its attributes: what each group says of itself
        zarr.json                       attributes: which group begins at which row, and hashes; sealed

Tokens of a shard are 3 MB. A group for each of the 67,000 of Kinetics would be half a million inodes, so that groups
are packed (`packing`) once those of 64 neighbouring shards are there: 1,050 packs, 8,400 inodes. What a group says of
itself stays the same text, and has the same hash, wherever it lies; the index names groups alone and does not change.

A pack never changes either. HHHHHHHH are the first digits of a hash over its groups, so that another pack has another
name. Where a group lies both by itself and in a pack, the one by itself is newer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import canonical_json, unseal
from deltactl.errors import DamagedError
from deltactl.featurize.store.layout import (
    CLIPS,
    GROUP_FILE,
    ONE_FILE_FORMAT,
    Layout,
    group_name,
    view_name,
    view_number,
)
from deltactl.fields import Fields
from deltactl.locations import Location
from deltactl.reading import parse_json

PACK_SHARDS = 64
"""Shards whose groups make one pack. Kinetics has 16,750, and four views: with 32 the inodes would be 16,800 of the
20,000 that are allowed; with 128 a shard that is made again would rewrite 400 MB."""
HASH_DIGITS = 8
LOOKERS = 16
_NAME = re.compile(r"(\d{6,})-(\d{6,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class Member:
    """A group in a pack."""

    unit: str
    first_row: int
    clips: int
    sha256: str
    """Of the `zarr.json` that the group has by itself."""
    shard_sha256: str
    """Of the shard that it was made from."""

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {
            "shard": self.unit,
            "first_row": self.first_row,
            "clips": self.clips,
            "sha256": self.sha256,
            "shard_sha256": self.shard_sha256,
        }

    @classmethod
    def of(cls, value: Fields) -> Member:
        """Return what `to_json` wrote."""
        return cls(
            value.text("shard"),
            value.integer("first_row"),
            value.integer("clips"),
            value.text("sha256"),
            value.text("shard_sha256"),
        )


@dataclass(frozen=True)
class Pack:
    """A pack, as its `zarr.json` describes it."""

    root: Location
    """The store."""
    view: int
    name: str
    layout: Layout
    members: Mapping[str, Member]
    """By shard, in the order of their rows."""
    files: Mapping[str, str]
    """SHA-256 of the `zarr.json` of each array, by its path in the pack."""

    @property
    def path(self) -> str:
        """The folder within the store, such as `v000/000064-000127-0a1b2c3d`."""
        return group_name(self.view, self.name)

    @property
    def folder(self) -> Location:
        """Where it lies."""
        return self.root / self.path

    @property
    def clips(self) -> int:
        """Clips of all its groups."""
        return sum(member.clips for member in self.members.values())

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the sealed attributes of each group, by shard, as its `zarr.json` would hold them.

        Raises:
            DamagedError: they are not those that were packed.
        """
        place, remedy = self.folder / CLIPS / GROUP_FILE, f"; {verify_command(self.root)}"
        data = read_hashed(place, self.files.get(f"{CLIPS}/{GROUP_FILE}"), verify_command(self.root))
        try:
            content = Fields(parse_json(data), place, remedy=remedy)
        except ValueError as error:
            raise DamagedError(f"{place} is damaged: expected JSON ({error}){remedy}") from error
        found = content.nested("attributes").entries("groups")
        if len(found) != len(self.members):
            raise content.wrong("attributes.groups", list(found), f"{len(self.members)} groups")
        return dict(zip(self.members, found, strict=True))

    @classmethod
    def read(cls, root: Location, view: int, name: str) -> Pack:
        """Read the `zarr.json` of a pack.

        Raises:
            FileNotFoundError: there is no such pack.
            DamagedError: it is damaged.
        """
        place, remedy = root / group_name(view, name) / GROUP_FILE, f"; {verify_command(root)}"
        value = unseal(place.read_whole(remedy), place, remedy, inside="attributes")
        layout = Layout.of(value.nested("layout"), value.integer("format", least=ONE_FILE_FORMAT))
        if (said := value.integer("view")) != view:
            raise value.wrong("view", said, f"{view}, as its folder is called")
        members = [Member.of(entry) for entry in value.items("groups")]
        if not members or pack_name(members) != name:
            raise value.wrong("groups", members, f"those of {name}, as its folder is called")
        row = 0
        for member in members:
            if member.first_row != row:
                raise value.wrong(f"groups.{member.unit}.first_row", member.first_row, str(row))
            row += member.clips
        return cls(root, view, name, layout, {each.unit: each for each in members}, value.text_map("files"))


def range_name(unit: str) -> str:
    """Return the shards of the pack that a shard belongs to, such as `000064-000127`."""
    first = int(unit) // PACK_SHARDS * PACK_SHARDS
    return f"{first:06d}-{first + PACK_SHARDS - 1:06d}"


def pack_name(members: Sequence[Member]) -> str:
    """Return the folder of a pack of these groups."""
    told = hashlib.sha256(canonical_json([[member.unit, member.sha256] for member in members])).hexdigest()
    return f"{range_name(members[0].unit)}-{told[:HASH_DIGITS]}"


def range_of_pack(name: str) -> str | None:
    """Return the shards of a pack from the name of its folder; None for another folder."""
    match = _NAME.fullmatch(name)
    return f"{match[1]}-{match[2]}" if match else None


def verify_command(root: Location) -> str:
    """Return what to do when a group is damaged."""
    return f"run: deltactl verify {root} --repair"


def read_hashed(place: Location, sha256: str | None, remedy: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        DamagedError: they are gone or their SHA-256 is another one.
    """
    data = read_there(place, remedy)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(f"{place} does not match its checksum; {remedy}")
    return data


def read_there(place: Location, remedy: str) -> bytes:
    """Return the bytes of a file; DamagedError where it is not there."""
    try:
        return place.read_whole(f"; {remedy}")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{place} is missing; {remedy}") from error


class Packs:
    """The packs of a store, listed once for each view, and again when told; each is read when it is asked for."""

    def __init__(self, root: Location, *, none: bool = False) -> None:
        """`none`: stand for a store without packs, where groups by themselves are meant."""
        self._root = root
        self._none = none
        self._names: dict[int, dict[str, list[str]]] = {}
        """Of the packs of each view, by their shards."""
        self._read: dict[tuple[int, str], Pack | None] = {}
        self.checked: set[str] = set()
        """Arrays whose metadata was read against its hash. A pack never changes, so once is enough."""

    def holding(self, view: int, unit: str) -> Iterator[Pack]:
        """Yield the packs that hold a group of this name: one, or while another takes its place two.

        Raises:
            DamagedError: one of the packs that may do is damaged.
        """
        for name in self.names(view).get(range_name(unit), ()):
            pack = self.get(view, name)
            if pack is not None and unit in pack.members:
                yield pack

    def names(self, view: int) -> Mapping[str, Sequence[str]]:
        """Return the names of the packs of a view, by their shards."""
        if self._none:
            return {}
        if view not in self._names:
            there: dict[str, list[str]] = {}
            for name in (self._root / view_name(view)).list():
                if (shards := range_of_pack(name)) is not None:
                    there.setdefault(shards, []).append(name)
            self._names[view] = there
        return self._names[view]

    def get(self, view: int, name: str) -> Pack | None:
        """Return a pack; None where it is gone, or (in an object store) not whole.

        Raises:
            DamagedError: it is damaged.
        """
        if (view, name) not in self._read:
            try:
                self._read[view, name] = Pack.read(self._root, view, name)
            except (FileNotFoundError, NotADirectoryError):
                self._read[view, name] = None
        return self._read[view, name]

    def forget(self, view: int) -> None:
        """Look at the folder of a view again when next asked."""
        self._names.pop(view, None)
        for key in [key for key in list(self._read) if key[0] == view]:
            self._read.pop(key, None)


@dataclass(frozen=True)
class Listing:
    """The folders of a store's views, as far as their names tell."""

    units: Mapping[int, Sequence[str]]
    """Groups by themselves, by view."""
    packs: Mapping[int, Sequence[str]]
    """Names of packs, by view."""

    @classmethod
    def of(cls, root: Location) -> Listing:
        """List them; in an object store what has no marker, which is uploaded last, does not count."""
        views = sorted(view for name in root.list() if (view := view_number(name)) is not None)
        folders = [(view, name) for view in views for name in (root / view_name(view)).list()]
        folders = [each for each in folders if each[1].isdigit() or range_of_pack(each[1]) is not None]
        if not root.is_local:
            with ThreadPoolExecutor(LOOKERS) as pool:
                whole = pool.map(lambda each: (root / group_name(*each) / GROUP_FILE).exists(), folders)
                folders = [each for each, there in zip(folders, whole, strict=True) if there]
        return cls(
            {view: [name for of, name in folders if of == view and name.isdigit()] for view in views},
            {view: [name for of, name in folders if of == view and not name.isdigit()] for view in views},
        )
