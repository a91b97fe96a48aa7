"""Reads every byte of a feature or token store against its checksums, and names what is damaged, missing or left over.

The header and the index carry seals; the index holds the hash of every group's metadata, which holds those of its
arrays'; every chunk carries a CRC-32C. So each byte is covered, and each is read: at the rate of the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, how_to_end, read_header, read_sealed
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.featurize.store.completeness import lacking
from deltactl.featurize.store.dropped import DROPPED, dropped_note
from deltactl.featurize.store.finish import GroupFile, published, read_group_file
from deltactl.featurize.store.group import BlackFrame, GroupHandle, Span
from deltactl.featurize.store.index import GroupEntry, StoreIndex
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, group_name, view_name, view_number
from deltactl.featurize.store.local_reader import LocalReader
from deltactl.featurize.store.remote_reader import RemoteReader
from deltactl.ingest.record import VIDEOS, is_record, record_name
from deltactl.locations import Location
from deltactl.verification import Check, Finding

SMALL_ARRAYS = ("times", "crop", "flip", "valid")
READ_THREADS = 4
ROWS_AT_ONCE = 8


def verify_store(root: Location, advance: Callable[[int], None] | None = None) -> list[Finding]:
    """Return what is wrong with a store; `advance` hears of the clips that were read."""
    check = Check(root, advance)
    check.header()
    index = _check_index(check)
    if index is not None:
        _check_once_files(check, index)
        if (note := index.unfinished_note()) is not None and not index.views.keys() - set(index.whole_views()):
            check.add("unfinished", INDEX, f"{note}: {how_to_end(root)}")
    _check_records(check)
    groups = published(root)
    _look_for_left_over(check, groups)
    reader = LocalReader(READ_THREADS) if root.is_local else RemoteReader(64)
    try:
        for view in sorted(groups.keys() | (index.views.keys() if index else set())):
            known = index.views.get(view, {}) if index else {}
            wanted = set(index.expected) if index else set()
            for unit in sorted(set(groups.get(view, [])) | known.keys() | wanted):
                name = group_name(view, unit)
                if unit not in groups.get(view, []):
                    reason = "the index names this group" if unit in known else "this view is not whole"
                    check.add("missing", name, reason, name)
                    continue
                if index is not None and unit not in known:
                    check.add("left over", name, "the index does not name this group; run featurize again")
                _check_group(check, view, unit, index, reader)
    finally:
        reader.close()
    return check.end()


def _check_index(check: Check) -> StoreIndex | None:
    """Return the index; without one, tell a store that lost it from one that is unfinished, or whose views went."""
    root = check.root
    try:
        index = StoreIndex.read(root)
        deque(map(index.sources.__getitem__, index.keys), maxlen=0)  # each is looked at when it is taken
        return index
    except DamagedError as error:
        check.findings.append(Finding.of(error, root, INDEX))
        return None
    except ArtifactError as error:
        why = error
    try:
        lost = lacking(root) == []
    except ArtifactError as error:  # the header is damaged, or a group, which is found elsewhere
        why, lost = error, False
    if lost:
        check.add("missing", INDEX, "all groups are there")
    elif not published(root) and dropped_note(root):
        check.add("unfinished", INDEX, str(why))
    else:
        check.add("unfinished", INDEX, f"{why}; {how_to_end(root)}")
    return None


def _check_once_files(check: Check, index: StoreIndex) -> None:
    """Check the files that stand once in a store."""
    for name, sha256 in sorted(index.files.items()):
        check.hashed(name, sha256, "the index names this file")
    if index.layout.kind == "features":
        metadata = f"{BLACK}/{GROUP_FILE}"
        black = BlackFrame(check.root, index.files.get(metadata), index.layout.frame_shape)
        if metadata in index.files and not any(finding.path == metadata for finding in check.findings):
            check.read(f"{BLACK}/c/0/0", black.read)


def _check_records(check: Check) -> None:
    """Check the record of the videos that a store was made of straight."""
    try:
        header = read_header(check.root)
    except ArtifactError:  # which is found elsewhere
        return
    wanted = range(1, len(header.generations) + 2) if VIDEOS in header.provenance else ()
    for name in sorted({*map(record_name, wanted), *filter(is_record, check.root.list())}):
        check.read(name, partial(read_sealed, check.root / name), absent="it names the videos of the store")


def _check_group(
    check: Check, view: int, unit: str, index: StoreIndex | None, reader: LocalReader | RemoteReader
) -> None:
    name = group_name(view, unit)
    file = check.read(f"{name}/{GROUP_FILE}", lambda: read_group_file(check.root, view, unit), name)
    if file is None:
        return
    entry = index.views.get(view, {}).get(unit) if index is not None else None
    if entry is not None and entry.sha256 != file.sha256:
        check.add("damaged", f"{name}/{GROUP_FILE}", "it does not match its checksum in the index", name)
        return
    if entry is not None and index is not None and not _agree(index, entry, file):
        check.add("damaged", INDEX, f"{name}: it says other things of this group than the group itself")
    layout, keys = file.layout, file.keys
    group = GroupHandle(check.root, view, unit, keys, layout, file.sha256)
    for array in SMALL_ARRAYS:
        check.read(f"{name}/{array}", partial(group.small, array), name, faults=DeltactlError)
    if check.read(f"{name}/{layout.kind}", group.array, name, faults=DeltactlError) is None:
        return
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(keys)))
        _check_rows(check, group, rows, reader)
        check.advance(len(rows))
    if check.root.is_local:
        folder, expected = check.root.path / name, _files_of(group)
        files = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
        for path in sorted(set(files) - expected):
            check.add("left over", f"{name}/{path}", "no part of a group")


def _agree(index: StoreIndex, entry: GroupEntry, file: GroupFile) -> bool:
    """Whether the index says of a group what the group says."""
    said = (entry.bytes, entry.invalid, tuple(index.keys.get(file.unit, ())), index.layout, index.grid)
    return said == (file.bytes, file.invalid, file.keys, file.layout, file.grid) and (
        file.sources is None or file.sources == index.sources[file.unit]
    )


def _check_rows(check: Check, group: GroupHandle, rows: Sequence[int], reader: LocalReader | RemoteReader) -> None:
    """Read each chunk by itself, so that each damaged one is named; a file that is gone is named once."""
    layout = group.layout
    spans = [
        Span(group, row, frame, layout.chunk_frames)
        for row in rows
        for frame in range(0, layout.frames, layout.chunk_frames)
    ]
    out = np.empty((len(spans), layout.chunk_frames, *layout.frame_shape), layout.bits)
    name, before = group_name(group.view, group.unit), len(check.findings)
    for span, future in zip(spans, reader.start(spans, out), strict=True):
        path = f"{name}/{group.array().shard_name(span.row)}"
        check.read(path, future.result, name, faults=DeltactlError)
    once: dict[str, Finding] = {}
    for finding in check.findings[before:]:
        # What is missing is a file, and each of its chunks says so in other words.
        once.setdefault(finding.path if finding.kind == "missing" else finding.reason, finding)
    check.findings[before:] = once.values()


def _look_for_left_over(check: Check, groups: dict[int, list[str]]) -> None:
    """Find files and folders that a store does not have."""
    names = check.root.list(hidden=True)
    views = {name: view for name in names if (view := view_number(name)) is not None}
    known = {HEADER, INDEX, QUARANTINE, GROUP_FILE, BLACK, DROPPED, *views, *filter(is_record, names)}
    check.left_over(set(names) - known, "no part of a store")
    for name, view in views.items():
        inner = set((check.root / view_name(view)).list(hidden=True))
        check.left_over(inner - {GROUP_FILE, *groups[view]}, "no part of a view", within=f"{name}/")


def _files_of(group: GroupHandle) -> set[str]:
    """Return the files that a group has."""
    expected = {GROUP_FILE}
    for array, spec in group.layout.arrays(len(group.keys)).items():
        expected.add(f"{array}/{GROUP_FILE}")
        files = -(-spec.shape[0] // spec.chunk[0])
        expected |= {f"{array}/c/{number}{'/0' * (len(spec.shape) - 1)}" for number in range(files)}
    return expected
