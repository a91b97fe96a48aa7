"""Reads every byte of a feature or token store against its checksums, and names what is damaged, missing or left over.

The header and the index carry seals; the index holds the hash of every group's metadata, which holds those of its
arrays'; every chunk carries a CRC-32C. So each byte is covered, and each is read: at the rate of the disk.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, how_to_end, read_header, read_sealed
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.featurize.store.carried import COLUMNS
from deltactl.featurize.store.completeness import lacking
from deltactl.featurize.store.dropped import DROPPED, dropped_note
from deltactl.featurize.store.finish import GroupFile, read_group_file, read_packed
from deltactl.featurize.store.group import BlackFrame, GroupHandle, Span
from deltactl.featurize.store.index import GroupEntry, StoreIndex
from deltactl.featurize.store.layout import (
    BLACK,
    CLIPS,
    GROUP_FILE,
    SMALL,
    Layout,
    group_name,
    view_name,
    view_number,
)
from deltactl.featurize.store.packs import Listing, Pack, Packs
from deltactl.featurize.store.reads import Reader, make_reader
from deltactl.ingest.record import VIDEOS, is_record, record_name
from deltactl.locations import Location
from deltactl.verification import Check, Finding

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
    listing = Listing.of(root)
    _look_for_left_over(check, listing)
    reader = make_reader(root, READ_THREADS)
    try:
        for view in sorted(listing.units.keys() | (index.views.keys() if index else set())):
            known = index.views.get(view, {}) if index else {}
            wanted = set(index.expected) if index else set()
            single = set(listing.units.get(view, ()))
            packed: set[str] = set()
            for name in listing.packs.get(view, ()):
                packed |= _check_pack(check, view, name, index, reader, single)
            for unit in sorted(single | packed | known.keys() | wanted):
                name = group_name(view, unit)
                if unit not in single | packed:
                    reason = "the index names this group" if unit in known else "this view is not whole"
                    check.add("missing", name, reason, name)
                    continue
                if index is not None and unit not in known:
                    check.add("left over", name, "the index does not name this group; run featurize again")
                if unit in packed & single:
                    check.add("left over", name, "a pack holds this group, too; run tokenize again")
                if unit in single:
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
    elif not Listing.of(root).units and dropped_note(root):
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


def _check_group(check: Check, view: int, unit: str, index: StoreIndex | None, reader: Reader) -> None:
    """Check a group by itself."""
    name = group_name(view, unit)
    file = check.read(f"{name}/{GROUP_FILE}", lambda: read_group_file(check.root, view, unit), name)
    if file is not None:
        group = GroupHandle(check.root, view, unit, file.keys, file.layout, file.sha256, Packs(check.root, none=True))
        _check_content(check, file, group, index, reader, f"{name}/{GROUP_FILE}")
        _look_inside(check, name, file.layout, len(file.keys))


def _check_pack(
    check: Check,
    view: int,
    name: str,
    index: StoreIndex | None,
    reader: Reader,
    single: set[str],
) -> set[str]:
    """Check the groups of a pack but for those that there are by themselves, too; return the shards of all of them."""
    path, packs = group_name(view, name), Packs(check.root)
    pack = check.read(f"{path}/{GROUP_FILE}", lambda: Pack.read(check.root, view, name), path)
    if pack is None:
        return set()
    records = f"{path}/{CLIPS}/{GROUP_FILE}"
    files = check.read(records, lambda: read_packed(pack, list(pack.members)), path, faults=DeltactlError)
    before = len(check.findings)
    for unit, file in (files or {}).items():
        if unit not in single:
            group = GroupHandle(check.root, view, unit, file.keys, file.layout, file.sha256, packs)
            _check_content(check, file, group, index, reader, records)
    # What every group in it has is wrong with the pack as a whole, and said once.
    said = Counter((each.path, each.reason) for each in check.findings[before:])
    checked = sum(bool(file.keys) for unit, file in (files or {}).items() if unit not in single)
    check.findings[before:] = dict.fromkeys(
        replace(each, unit=path) if said[each.path, each.reason] == checked else each
        for each in check.findings[before:]
    )
    _look_inside(check, path, pack.layout, pack.clips)
    return set(pack.members)


def _check_content(
    check: Check,
    file: GroupFile,
    group: GroupHandle,
    index: StoreIndex | None,
    reader: Reader,
    told_in: str,
) -> None:
    """Check what a group says, and its arrays."""
    name = group_name(file.view, file.unit)
    entry = index.views.get(file.view, {}).get(file.unit) if index is not None else None
    if entry is not None and entry.sha256 != file.sha256:
        check.add("damaged", told_in, f"{name} does not match its checksum in the index", name)
        return
    if entry is not None and index is not None and not _agree(index, entry, file):
        check.add("damaged", INDEX, f"{name}: it says other things of this group than the group itself")
    layout = file.layout
    where = name
    with contextlib.suppress(DeltactlError):  # said below
        where = group.lies().folder.url.removeprefix(f"{check.root}/")
    if layout.nested:
        for array in SMALL:
            check.read(f"{where}/{array}", partial(group.small, array), name, faults=DeltactlError)
    else:
        check.read(f"{where}/{CLIPS}", group.table, name, faults=DeltactlError)
    if check.read(f"{where}/{layout.kind}", group.array, name, faults=DeltactlError) is None:
        return
    before = len(check.findings)
    for start in range(0, len(file.keys), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(file.keys)))
        _check_rows(check, group, rows, reader, where)
        check.advance(len(rows))
    if layout.carried_bytes:
        _check_columns(check, group, reader, where)
    once: dict[str, Finding] = {}
    for finding in check.findings[before:]:
        # What is missing is a file, and each of its chunks says so in other words.
        once.setdefault(finding.path if finding.kind == "missing" else finding.reason, finding)
    check.findings[before:] = once.values()


def _look_inside(check: Check, name: str, layout: Layout, clips: int) -> None:
    """Find files that a group or a pack does not have."""
    if check.root.is_local:
        folder, expected = check.root.path / name, _files_of(layout, clips)
        files = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
        for path in sorted(set(files) - expected):
            check.add("left over", f"{name}/{path}", "no part of a group")


def _agree(index: StoreIndex, entry: GroupEntry, file: GroupFile) -> bool:
    """Whether the index says of a group what the group says."""
    said = (entry.bytes, entry.invalid, tuple(index.keys.get(file.unit, ())), index.layout, index.grid)
    return said == (file.bytes, file.invalid, file.keys, file.layout, file.grid) and (
        file.sources is None or file.sources == index.sources[file.unit]
    )


def _check_rows(check: Check, group: GroupHandle, rows: Sequence[int], reader: Reader, where: str) -> None:
    """Read each chunk by itself, so that each damaged one is named."""
    layout = group.layout
    spans = [
        Span(group, row, frame, layout.chunk_frames)
        for row in rows
        for frame in range(0, layout.frames, layout.chunk_frames)
    ]
    out = np.empty((len(spans), layout.chunk_frames, *layout.frame_shape), layout.bits)
    for span, future in zip(spans, reader.start(spans, out), strict=True):
        path = f"{where}/{layout.kind}/{group.array().file(span.row).url.removeprefix(f'{group.array().folder}/')}"
        check.read(path, future.result, group_name(group.view, group.unit), faults=DeltactlError)


def _check_columns(check: Check, group: GroupHandle, reader: Reader, where: str) -> None:
    """Read what each clip carries."""
    name, columns = group_name(group.view, group.unit), group.columns()
    if check.read(f"{where}/{COLUMNS}", columns.array, name, faults=DeltactlError) is None:
        return
    if not group.keys:
        return
    out = np.empty((len(group.keys), group.layout.carried_bytes), np.uint8)
    for row, future in enumerate(reader.start(list(map(columns.span, range(len(out)))), out)):
        path = f"{where}/{COLUMNS}/{columns.array().file(row).url.removeprefix(f'{columns.array().folder}/')}"
        check.read(path, future.result, name, faults=DeltactlError)


def _look_for_left_over(check: Check, listing: Listing) -> None:
    """Find files and folders that a store does not have."""
    names = check.root.list(hidden=True)
    views = {name: view for name in names if (view := view_number(name)) is not None}
    known = {HEADER, INDEX, QUARANTINE, GROUP_FILE, BLACK, DROPPED, *views, *filter(is_record, names)}
    check.left_over(set(names) - known, "no part of a store")
    for name, view in views.items():
        inner = set((check.root / view_name(view)).list(hidden=True))
        known_inside = {GROUP_FILE, *listing.units[view], *listing.packs[view]}
        check.left_over(inner - known_inside, "no part of a view", within=f"{name}/")


def _files_of(layout: Layout, clips: int) -> set[str]:
    """Return the files of a group, or a pack, of so many clips."""
    arrays = layout.arrays(clips)
    expected = {f"{array}/{spec.file(number)}" for array, spec in arrays.items() for number in range(spec.files)}
    return {GROUP_FILE, *(f"{array}/{GROUP_FILE}" for array in arrays), *expected}
