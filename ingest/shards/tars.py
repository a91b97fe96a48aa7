"""Members of a shard's tar, in order and grouped by clip: read one after the other, or found by their headers alone.

Takes an open tar; returns names with bytes or places. The naming is WebDataset's (`KEY.SUFFIX`, the key ends at the
first dot after the last slash, suffixes in small letters), but where its reader makes a second sample of a clip whose
members do not lie together, unpacks what is compressed, or passes over a cut header, this one raises DamagedError with
the names of the tar and the clip. Nothing is unpacked to a disk, and no member fills the memory: only regular members
that are not sparse are read, each no larger than a picture may be.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from deltactl.errors import DamagedError
from deltactl.locations import Location
from deltactl.reading import PICTURE

DESCRIPTION = "json"
"""Suffix of the member that describes its clip."""
REMEDY = "; remove its sidecar and run ingest again to make it anew"
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_BROKEN = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)
"""What `tarfile` raises at a damaged header."""
Content = TypeVar("Content")


@dataclass(frozen=True)
class Member:
    """Where a file lies in a tar."""

    offset: int
    size: int


def read_members(file: Any, place: Location) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the files in a tar, reading it once from its beginning; DamagedError names the tar."""
    with _open(place, fileobj=file, mode="r|") as tar:
        for info in _regular(tar, place):
            content = tar.extractfile(info)
            assert content is not None, "of a regular member there is content"
            try:
                data = content.read()
            except _BROKEN as error:
                raise DamagedError(f"{place} is damaged: {info.name}: {error}{REMEDY}") from error
            yield info.name, data


def find_members(file: Any, place: Location) -> Iterator[tuple[str, Member]]:
    """Yield name and place of the files in a tar by its headers, jumping over what they hold; likewise."""
    with _open(place, fileobj=file, mode="r:") as tar:
        for info in _regular(tar, place):
            yield info.name, Member(info.offset_data, info.size)


def group_members(members: Iterable[tuple[str, Content]], place: Location) -> Iterator[tuple[str, dict[str, Content]]]:
    """Yield each clip's key and its members by suffix, such as `json` and `000.jpg`.

    Names that are no clip's, without a dot or such as `__meta__`, are passed over, as WebDataset does.

    Raises:
        DamagedError: the members of a clip do not lie together, one of them comes twice, or the description is missing.
    """
    key, found = "", dict[str, Content]()
    seen: set[str] = set()
    for name, content in members:
        match = _NAME.fullmatch(name)
        if match is None or _META.match(name):
            continue
        suffix = match[2].lower()
        if match[1] != key:
            if found:
                yield key, _described(key, found, place)
            key, found = match[1], {}
            if key in seen:
                raise DamagedError(
                    f"{place} is damaged: the members of clip {key!r} do not lie together; write those of each clip "
                    "one after the other"
                )
            seen.add(key)
        if suffix in found:
            raise DamagedError(f"{place} is damaged: clip {key!r} has {suffix!r} twice{REMEDY}")
        found[suffix] = content
    if found:
        yield key, _described(key, found, place)


def description_of(key: str, place: Location) -> str:
    """Return what messages call a clip's description."""
    return f"{place}: the description of clip {key!r}"


def _described(key: str, found: dict[str, Content], place: Location) -> dict[str, Content]:
    if DESCRIPTION not in found:
        raise DamagedError(
            f"{place} is damaged: clip {key!r} has no description ({key}.{DESCRIPTION}) beside its other members, "
            f"which must lie together{REMEDY}"
        )
    return found


def _open(place: Location, **how: Any) -> tarfile.TarFile:
    try:
        return tarfile.open(**how)
    except _BROKEN as error:
        raise DamagedError(f"{place} is damaged: {error}{REMEDY}") from error


def _regular(tar: tarfile.TarFile, place: Location) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of files; raises DamagedError if one is a link, a device, sparse or too large."""
    while True:
        try:
            info = tar.next()
        except _BROKEN as error:
            raise DamagedError(f"{place} is damaged: {error}{REMEDY}") from error
        if info is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise DamagedError(f"{place} is damaged: {info.name!r} is a link, a device or sparse; expected plain files")
        if info.size > PICTURE.bytes:
            raise DamagedError(
                f"{place} is damaged: {info.name!r} claims {info.size:,} bytes, more than the {PICTURE.bytes:,} "
                f"{PICTURE.may}"
            )
        yield info
