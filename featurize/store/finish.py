"""Makes a store's index and quarantine from its groups, and drops views; what `featurize` and `tokenize` end with.

Every group's `zarr.json` is read once (a tenth of a millisecond each on a disk). Running it again is always right.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from deltactl.artifacts import (
    HEADER,
    INDEX,
    QUARANTINE,
    Identity,
    Quarantined,
    read_header,
    read_quarantine,
    unseal,
    write_index,
    write_quarantine,
)
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError
from deltactl.featurize.store.dropped import dropped_note, record_dropped
from deltactl.featurize.store.index import GroupEntry, StoreIndex, grid_of, read_format
from deltactl.featurize.store.layout import BLACK, CLIPS, GROUP_FILE, Layout, group_name, view_name
from deltactl.featurize.store.packs import Listing, Pack, Packs, read_hashed, verify_command
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.store.writer import canonical_metadata, group_metadata
from deltactl.featurize.views import listed_views
from deltactl.fields import Fields
from deltactl.ingest.shards.clip_index import sources_from
from deltactl.ingest.shards.columns import text_columns
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.locations import Location
from deltactl.removal import Consent, Removal, refuse

READERS = 16


@dataclass(frozen=True)
class GroupFile:
    """What a published group says in its `zarr.json`."""

    view: int
    unit: str
    sha256: str
    """Of the file."""
    layout: Layout
    grid: tuple[int, int]
    """Rows and columns of patches."""
    keys: tuple[str, ...]
    sources: tuple[str, ...] | None
    """The name of the source of each clip; None in a group of format 1, which does not say."""
    invalid: tuple[int, ...]
    bytes: int
    shard_sha256: str
    """Of the shard that it was made from."""
    quarantined: tuple[Quarantined, ...]
    identity: Identity
    provenance: Mapping[str, Any]
    statistics: Statistics | None
    """Of each channel, over the valid clips; None in a group that was made before they were recorded."""
    texts: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The texts that clips carry, by column; null for a clip without."""

    @classmethod
    def of(cls, value: Fields, view: int, unit: str, sha256: str) -> GroupFile:
        """Return what the attributes of a group say.

        Raises:
            ArtifactError: the group is of a format that is not known here.
            DamagedError: they are not those of this group.
        """
        written = read_format(value)
        layout, keys = Layout.of(value.nested("layout"), written), tuple(value.texts("keys"))
        if "view" in value and (said := value.integer("view")) != view:
            raise value.wrong("view", said, f"{view}, as its folder is called")
        if "shard" in value and (shard := value.text("shard")) != unit:
            raise value.wrong("shard", shard, f"{unit}, as its folder is called")
        invalid = tuple(value.integers("invalid"))
        if any(row >= len(keys) for row in invalid):
            raise value.wrong("invalid", max(invalid), f"rows below {len(keys)}")
        identity = value.nested("identity")
        return cls(
            view=view,
            unit=unit,
            sha256=sha256,
            layout=layout,
            grid=grid_of(value, layout),
            keys=keys,
            sources=None if written == 1 else sources_from(value.nested("sources"), len(keys)),
            invalid=invalid,
            bytes=value.integer("bytes"),
            shard_sha256=value.text("shard_sha256"),
            quarantined=tuple(Quarantined.of(entry) for entry in value.items("quarantined")),
            identity=Identity(identity.text("kind"), identity.nested("values").values),
            provenance=value.nested("provenance").values if "provenance" in value else {},
            statistics=Statistics.read(value, layout.frame_shape[-1]),
            texts=_texts(value, layout, len(keys)),
        )


def _texts(value: Fields, layout: Layout, clips: int) -> dict[str, list[Any]]:
    names = [column.name for column in text_columns(layout.carried)]
    return {name: value.nested("texts").array(name, clips) for name in names}


def published(root: Location) -> dict[int, list[str]]:
    """Return the shards that each view has a group of, by itself or in a pack.

    Raises:
        DamagedError: a pack is damaged.
    """
    listing, packs = Listing.of(root), Packs(root)
    there = {view: set(units) for view, units in listing.units.items()}
    for view, names in listing.packs.items():
        for name in names:
            if (pack := packs.get(view, name)) is not None:
                there[view].update(pack.members)
    return {view: sorted(units) for view, units in there.items()}


def read_group_file(root: Location, view: int, unit: str) -> GroupFile:
    """Return what a group says about itself.

    Raises:
        DamagedError: its seal is broken or its `zarr.json` is gone.
    """
    (file,) = read_group_files(root, [(view, unit)])
    return file


def read_group_files(root: Location, groups: Sequence[tuple[int, str]]) -> list[GroupFile]:
    """Read the description of many groups, several at a time; what a pack says of its groups is read once.

    Raises:
        DamagedError: see `read_group_file`.
    """
    packs = Packs(root)
    packed: dict[str, tuple[Pack, list[str]]] = {}

    def by_itself(group: tuple[int, str]) -> GroupFile | Pack:
        try:
            return _read_by_itself(root, *group)
        except (FileNotFoundError, NotADirectoryError) as error:
            for pack in packs.holding(*group):
                return pack
            place = root / group_name(*group) / GROUP_FILE
            raise DamagedError(f"{place} is missing; {verify_command(root)}") from error

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(by_itself, groups))
        for (_, unit), each in zip(groups, found, strict=True):
            if isinstance(each, Pack):
                packed.setdefault(each.path, (each, []))[1].append(unit)
        read = dict(zip(packed, pool.map(lambda entry: read_packed(*entry), packed.values()), strict=True))
    return [
        each if isinstance(each, GroupFile) else read[each.path][unit]
        for (_, unit), each in zip(groups, found, strict=True)
    ]


def read_attributes(root: Location, view: int, unit: str, sha256: str) -> dict[str, Any]:
    """Return the attributes of a group by itself, without their seal, as they are.

    Raises:
        DamagedError: its `zarr.json` is not that of the hash.
    """
    place, remedy = root / group_name(view, unit) / GROUP_FILE, verify_command(root)
    return unseal(read_hashed(place, sha256, remedy), place, f"; {remedy}", inside="attributes").values


def read_packed(pack: Pack, units: Sequence[str]) -> dict[str, GroupFile]:
    """Return what groups in a pack say about themselves.

    Raises:
        DamagedError: it is not what they said when they were packed.
    """
    records, place = pack.records(), pack.folder / CLIPS / GROUP_FILE
    files = {}
    for unit in units:
        sha256 = hashlib.sha256(canonical_metadata(records[unit])).hexdigest()
        value = Fields(records[unit], place, f"groups.{unit}", f"; {verify_command(pack.root)}")
        if sha256 != pack.members[unit].sha256:
            raise value.wrong("sha256", sha256, f"{pack.members[unit].sha256}, as {pack.path}/{GROUP_FILE} says")
        files[unit] = GroupFile.of(value, pack.view, unit, sha256)
    return files


def _read_by_itself(root: Location, view: int, unit: str) -> GroupFile:
    place, remedy = root / group_name(view, unit) / GROUP_FILE, f"; {verify_command(root)}"
    data = place.read_whole(remedy)
    content = unseal(data, place, remedy, inside="attributes")
    return GroupFile.of(content, view, unit, hashlib.sha256(data).hexdigest())


def layout_there(root: Location) -> Layout | None:
    """Return the layout of a store's groups, which those that are added share; None where there are none."""
    if (index := readable_index(root)) is not None:
        return index.layout
    group = sound_group(root)
    return None if group is None else group.layout


def layout_of(root: Location, layout: Layout) -> Layout:
    """Return the layout of what is added to a store: that of a store of such frames which is there, else `layout`."""
    there = layout_there(root)
    return there if there is not None and there.item_shape == layout.item_shape else layout


def sound_group(root: Location) -> GroupFile | None:
    """Return what a group says whose seal is whole; None where there is none."""
    listing = Listing.of(root)
    for view, units in listing.units.items():
        for unit in units:
            with contextlib.suppress(DamagedError, FileNotFoundError, NotADirectoryError):
                return _read_by_itself(root, view, unit)
    for view, names in listing.packs.items():
        for name in names:
            with contextlib.suppress(DamagedError, FileNotFoundError, NotADirectoryError):
                pack = Pack.read(root, view, name)
                return next(iter(read_packed(pack, list(pack.members)[:1]).values()))
    return None


def shard_hashes(root: Location, groups: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
    """Return the hash of the shard that each group was made from.

    Raises:
        DamagedError: see `read_group_file`.
    """
    packs = Packs(root)

    def of(group: tuple[int, str]) -> str:
        try:
            return _read_by_itself(root, *group).shard_sha256
        except (FileNotFoundError, NotADirectoryError):
            for pack in packs.holding(*group):
                return pack.members[group[1]].shard_sha256
            return read_group_file(root, *group).shard_sha256

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(groups, pool.map(of, groups), strict=True))


def finish(
    root: Location,
    *,
    expected: Sequence[str] | None,
    failed: Sequence[Quarantined] = (),
    without: Sequence[int] = (),
    awaited: Sequence[str] = (),
) -> StoreIndex | None:
    """Write the index and the quarantine of a store from its groups; None where there are none yet.

    `expected`: the shards that a whole view has a group of; None: those of the index there is, and no index where there
    is none, since nothing else says what the store should hold. `failed`: shards whose tar could not be used, now or in
    an earlier run. `without`: views to leave out, since they will be dropped. `awaited`: shards that are still to come,
    if the set that the store is made of is unfinished.

    Raises:
        DamagedError: a group does not match its seal.
        IdentityError: a group was made from something else.
    """
    while True:
        listing = {view: units for view, units in published(root).items() if view not in without}
        if expected is None and listing and readable_index(root) is None:
            return None
        index, quarantined = _build(root, listing, expected, failed, awaited)
        if index is None:
            (root / INDEX).remove()
            return None
        earlier = readable_index(root)
        write_quarantine(root, quarantined)
        index = replace(index, files=_hashes(root, listing, earlier.files if earlier else {}))
        write_index(root, index.to_json())
        # Another part of a job array may have published, and indexed, while this one read.
        if {view: units for view, units in published(root).items() if view not in without} == listing:
            return index


def views_to_drop(root: Location, views: Sequence[int]) -> list[Removal]:
    """Return what dropping views would remove.

    Raises:
        ConfigError: the store has no such view.
    """
    there = published(root)
    if absent := [view for view in views if view not in there]:
        note = dropped_note(root, absent)
        raise ConfigError(
            f"{root} has no {listed_views(absent)}{f' ({note})' if note else ''}; it has {listed_views(there)}"
        )
    left = [view for view in there if view not in views]
    note = f"{listed_views(left)} left" if left else "the last view: nothing is left of the store but its identity"
    return [
        Removal(f"view {view} of {root} ({len(there[view]):,} shards)", (root / view_name(view)).total_bytes(), note)
        for view in views
    ]


def drop_views(root: Location, views: Sequence[int], consent: Consent = refuse) -> list[int]:
    """Remove views from a store, out of the index first, once `consent` was given; return those that are left.

    Who dropped them is written down (`dropped`).

    Raises:
        ConfigError: one of them is not there, or nobody agrees.
    """
    removals = views_to_drop(root, views)
    consent(removals)
    record_dropped(root, dict(zip(views, (removal.bytes for removal in removals), strict=True)))
    finish(root, expected=None, without=views)
    for view in views:
        (root / view_name(view)).remove()
    return list(published(root))


def _build(
    root: Location,
    listing: Mapping[int, Sequence[str]],
    expected: Sequence[str] | None,
    failed: Sequence[Quarantined],
    awaited: Sequence[str],
) -> tuple[StoreIndex | None, list[Quarantined]]:
    header = read_header(root)
    identity = header.identity
    groups = read_group_files(root, [(view, unit) for view, units in listing.items() for unit in units])
    if not groups:
        return None, []
    keys: dict[str, tuple[str, ...]] = {}
    sources: dict[str, tuple[str, ...]] = {}
    views: dict[int, dict[str, GroupEntry]] = {}
    quarantined: list[Quarantined] = []
    for group in groups:
        name = group_name(group.view, group.unit)
        if differences := identity.differences(group.identity):
            raise IdentityError(f"{root / name} was made from other inputs than {root}: {'; '.join(differences)}")
        if keys.setdefault(group.unit, group.keys) != group.keys:
            raise ArtifactError(f"{root / name} holds other clips than the same shard in another view; remove it")
        if group.sources is not None and sources.setdefault(group.unit, group.sources) != group.sources:
            raise ArtifactError(f"{root / name} names other sources than the same shard in another view; remove it")
        if group.layout != groups[0].layout or group.grid != groups[0].grid:
            raise ArtifactError(f"{root / name} holds features of another shape than the other groups; remove it")
        views.setdefault(group.view, {})[group.unit] = GroupEntry(group.sha256, group.bytes, group.invalid)
        quarantined += group.quarantined
    if expected is None:
        before = readable_index(root)
        assert before is not None, "there is an index where nothing else says what is expected"
        unusable_units = {entry.unit for entry in _quarantine(root) if "/" not in entry.unit}
        expected, awaited = sorted({*before.expected, *unusable_units}), before.awaited
    absent = {unit for units in views.values() for unit in expected if unit not in units}
    earlier = [entry for entry in _quarantine(root) if entry.unit in absent]
    unusable = {entry.unit: entry for entry in [*earlier, *failed] if entry.unit in absent}
    index = StoreIndex(
        layout=groups[0].layout,
        grid=groups[0].grid,
        keys=keys,
        sources={unit: sources.get(unit) or guess_sources(names, evaluation=False) for unit, names in keys.items()},
        expected=tuple(unit for unit in expected if unit not in unusable),
        views=views,
        files={},
        awaited=tuple(awaited),
        generations=header.generations,
        statistics=_statistics(groups),
    )
    return index, [*unusable.values(), *quarantined]


def _statistics(groups: Sequence[GroupFile]) -> Statistics | None:
    """Return those of all groups, merged in the order of views and shards; None where a group has none."""
    parts = [each.statistics for each in sorted(groups, key=lambda group: (group.view, group.unit))]
    known = [part for part in parts if part is not None]
    return Statistics.merged(known, groups[0].layout.frame_shape[-1]) if len(known) == len(parts) else None


def _hashes(root: Location, views: Iterable[int], earlier: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of the files that stand once in a store, so that damage to them never becomes the truth.

    The groups above the groups have one content; the black frame's metadata keeps the hash that is known; the header
    carries a seal, which was just checked; the quarantine was just written.
    """
    plain = hashlib.sha256(group_metadata({})).hexdigest()
    black = f"{BLACK}/{GROUP_FILE}"
    hashes = {
        **dict.fromkeys([GROUP_FILE, *(f"{view_name(view)}/{GROUP_FILE}" for view in views)], plain),
        black: earlier.get(black) or _hash(root / black),
        HEADER: _hash(root / HEADER),
        QUARANTINE: _hash(root / QUARANTINE),
    }
    return {name: value for name, value in hashes.items() if value}


def _hash(place: Location) -> str | None:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def readable_index(root: Location) -> StoreIndex | None:
    """Return the present index; None where there is none that can be read, or no store can be."""
    try:
        return StoreIndex.read(root)
    except (ArtifactError, NotADirectoryError):
        return None


def _quarantine(root: Location) -> list[Quarantined]:
    """Return the present entries; none where the file is damaged, since it is about to be made anew."""
    try:
        return read_quarantine(root)
    except DamagedError:
        return []
