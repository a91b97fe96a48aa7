"""Reads every byte of a feature or token store against its checksums, and names what is damaged, missing or left over.

The header and the index carry seals; the index holds the hash of every group's metadata, which holds those of its
arrays'; every chunk carries a CRC-32C. So each byte is covered, and each is read: at the rate of the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, how_to_end, read_header
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.featurize.completeness import lacking
from deltactl.featurize.dropped import DROPPED, dropped_note
from deltactl.featurize.finish import GroupFile, published, read_group_file
from deltactl.featurize.group import BlackFrame, GroupHandle, Span
from deltactl.featurize.index import GroupEntry, StoreIndex
from deltactl.featurize.layout import BLACK, GROUP_FILE, group_name, view_name, view_number
from deltactl.featurize.local_reader import LocalReader
from deltactl.featurize.remote_reader import RemoteReader
from deltactl.ingest.verify import Finding, check_sealed, find_staging, is_in_use
from deltactl.locations import Location

SMALL_ARRAYS = ("times", "crop", "flip", "valid")
READ_THREADS = 4
ROWS_AT_ONCE = 8


def verify_store(root: Location, advance: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a store; `advance` hears of the clips that were read."""
    yield from check_sealed(root, HEADER, read_header)
    index: StoreIndex | None = None
    try:
        index = StoreIndex.read(root)
    except DamagedError as error:
        yield Finding.of(error, root, INDEX)
    except ArtifactError as error:
        yield from _verify_without_index(root, error)
    else:
        yield from _verify_once_files(root, index)
        if (note := index.unfinished_note()) is not None and not index.views.keys() - set(index.whole_views()):
            yield Finding("unfinished", INDEX, f"{note}: {how_to_end(root)}")
    groups = published(root)
    yield from _left_over(root, groups)
    reader = LocalReader(READ_THREADS) if root.is_local else RemoteReader(64)
    try:
        for view in sorted(groups.keys() | (index.views.keys() if index else set())):
            known = index.views.get(view, {}) if index else {}
            wanted = set(index.expected) if index else set()
            for unit in sorted(set(groups.get(view, [])) | known.keys() | wanted):
                name = group_name(view, unit)
                if unit not in groups.get(view, []):
                    reason = "the index names this group" if unit in known else "this view is not whole"
                    yield Finding("missing", name, reason, name)
                    continue
                if index is not None and unit not in known:
                    yield Finding("left over", name, "the index does not name this group; run featurize again")
                yield from _verify_group(root, view, unit, index, reader, advance)
    finally:
        reader.close()
    yield from find_staging(root)


def _verify_without_index(root: Location, error: ArtifactError) -> Iterator[Finding]:
    """Tell a store whose index is lost from one whose stage has not ended, or whose views were dropped."""
    try:
        lost = lacking(root) == []
    except ArtifactError as other:  # the header is damaged, or a group, which is found elsewhere
        error, lost = other, False
    if lost:
        yield Finding("missing", INDEX, "all groups are there")
    elif not published(root) and dropped_note(root):
        yield Finding("unfinished", INDEX, str(error))
    else:
        yield Finding("unfinished", INDEX, f"{error}; {how_to_end(root)}")


def _verify_once_files(root: Location, index: StoreIndex) -> Iterator[Finding]:
    """Check the files that stand once in a store."""
    for name, sha256 in sorted(index.files.items()):
        try:
            digest = hashlib.sha256((root / name).read_whole()).hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            yield Finding("missing", name, "the index names this file")
            continue
        except DamagedError as error:
            yield Finding.of(error, root, name)
            continue
        if digest != sha256:
            yield Finding("damaged", name, "it does not match its checksum")
    if index.layout.kind == "features":
        try:
            BlackFrame(root, index.files.get(f"{BLACK}/{GROUP_FILE}"), index.layout.frame_shape).read()
        except DamagedError as error:
            if "zarr.json" not in str(error):  # which was found above
                yield Finding.of(error, root, f"{BLACK}/c/0/0")


def _verify_group(
    root: Location,
    view: int,
    unit: str,
    index: StoreIndex | None,
    reader: LocalReader | RemoteReader,
    advance: Callable[[int], None] | None,
) -> Iterator[Finding]:
    name = group_name(view, unit)
    entry = index.views.get(view, {}).get(unit) if index is not None else None
    try:
        file = read_group_file(root, view, unit)
    except DamagedError as error:
        yield Finding.of(error, root, f"{name}/{GROUP_FILE}", name)
        return
    if entry is not None and entry.sha256 != file.sha256:
        yield Finding("damaged", f"{name}/{GROUP_FILE}", "it does not match its checksum in the index", name)
        return
    if entry is not None and index is not None and not _agree(index, entry, file):
        yield Finding("damaged", INDEX, f"{name}: it says other things of this group than the group itself")
    layout, keys = file.layout, file.keys
    group = GroupHandle(root, view, unit, keys, layout, file.sha256)
    for array in SMALL_ARRAYS:
        try:
            group.small(array)
        except DeltactlError as error:
            yield Finding.of(error, root, f"{name}/{array}", name)
    try:
        group.array()
    except DeltactlError as error:
        yield Finding.of(error, root, f"{name}/{layout.kind}", name)
        return
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(keys)))
        yield from _verify_rows(group, rows, reader)
        if advance is not None:
            advance(len(rows))
    if root.is_local:
        yield from _left_over_files(root.path / name, group, name)


def _agree(index: StoreIndex, entry: GroupEntry, file: GroupFile) -> bool:
    """Whether the index says of a group what the group says."""
    said = (entry.bytes, entry.invalid, tuple(index.keys.get(file.unit, ())), index.layout, index.grid)
    return said == (file.bytes, file.invalid, file.keys, file.layout, file.grid)


def _verify_rows(group: GroupHandle, rows: range, reader: LocalReader | RemoteReader) -> Iterator[Finding]:
    """Read each chunk by itself, so that each damaged one is named."""
    layout = group.layout
    spans = [
        Span(group, row, frame, layout.chunk_frames)
        for row in rows
        for frame in range(0, layout.frames, layout.chunk_frames)
    ]
    out = np.empty((len(spans), layout.chunk_frames, *layout.frame_shape), np.float16)
    seen: set[str] = set()
    for span, future in zip(spans, reader.start(spans, out), strict=True):
        error = future.exception()
        if error is None:
            continue
        if not isinstance(error, DeltactlError):
            raise error
        name = group_name(group.view, group.unit)
        finding = Finding.of(error, group.store, f"{name}/{group.array().shard_name(span.row)}", name)
        # A file that is gone is one finding, not one for each of its chunks.
        what = finding.path if finding.kind == "missing" else finding.reason
        if what not in seen:
            seen.add(what)
            yield finding


def _left_over(root: Location, groups: dict[int, list[str]]) -> Iterator[Finding]:
    """Find files and folders that a store does not have."""
    known = {HEADER, INDEX, QUARANTINE, GROUP_FILE, BLACK, DROPPED}
    for name in root.list(hidden=True):
        view = view_number(name)
        if view is None and name not in known and not is_in_use(name):
            yield Finding("left over", name, "no part of a store")
        elif view is not None:
            for inner in (root / view_name(view)).list(hidden=True):
                if inner != GROUP_FILE and inner not in groups[view] and not is_in_use(inner):
                    yield Finding("left over", f"{name}/{inner}", "no part of a view")


def _left_over_files(folder: Path, group: GroupHandle, name: str) -> Iterator[Finding]:
    """Find files in a group that its arrays do not have."""
    expected = {GROUP_FILE}
    for array, spec in group.layout.arrays(len(group.keys)).items():
        expected.add(f"{array}/{GROUP_FILE}")
        files = -(-spec.shape[0] // spec.chunk[0])
        expected |= {f"{array}/c/{number}{'/0' * (len(spec.shape) - 1)}" for number in range(files)}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        relative = path.relative_to(folder).as_posix()
        if relative not in expected:
            yield Finding("left over", f"{name}/{relative}", "no part of a group")
