"""The index of a store: one file that says which groups there are, what is in them, and how to tell if they changed.

`index.json` is made from the groups (`finish`), never the other way round: groups are published first, so an index that
is old or gone costs a rebuild, not data. Keys and the names of sources stand once for each shard, whatever the number
of views, and names are looked at only when asked for. 536,000 clips of as many videos make 53 MB, opened in about a
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from deltactl.artifacts import read_index
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.store.dropped import dropped_note
from deltactl.featurize.store.group import GroupHandle
from deltactl.featurize.store.layout import FORMATS, Layout, view_number
from deltactl.featurize.store.packs import Packs
from deltactl.featurize.store.statistics import Statistics
from deltactl.fields import Fields
from deltactl.ingest.shards.clip_index import sources_from, sources_to_json
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.locations import Location


@dataclass(frozen=True)
class GroupEntry:
    """What the index knows about a group."""

    sha256: str
    """Of the group's `zarr.json`."""
    bytes: int
    invalid: tuple[int, ...]
    """Rows that cannot be read: quarantined, or without such a view."""

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {"sha256": self.sha256, "bytes": self.bytes, "invalid": list(self.invalid)}

    @classmethod
    def of(cls, value: Fields) -> GroupEntry:
        """Return what `to_json` wrote."""
        return cls(value.text("sha256"), value.integer("bytes"), tuple(value.integers("invalid")))


class IndexedSources:
    """The name of the source of each clip of a shard, taken from an index when it is asked for; few readers ask."""

    def __init__(self, keys: Mapping[str, Sequence[str]], said: Fields | None) -> None:
        """`said`: what the index says of sources, by shard; None where it is of format 1, and does not say."""
        self._keys = keys
        self._said = said

    def __getitem__(self, unit: str) -> Sequence[str]:
        """Return those of a shard.

        Raises:
            DamagedError: they are not one for each of its keys.
        """
        keys = self._keys[unit]
        if self._said is None:
            return guess_sources(keys, evaluation=False)
        return sources_from(self._said.nested(unit), len(keys))


@dataclass(frozen=True)
class StoreIndex:
    """The content of `index.json`."""

    layout: Layout
    grid: tuple[int, int]
    """Rows and columns of patches."""
    keys: Mapping[str, Sequence[str]]
    """Keys of the clips of each shard, row by row."""
    sources: Mapping[str, Sequence[str]] | IndexedSources
    """The name of the source of each of these clips: clips of one source are held out together."""
    expected: tuple[str, ...]
    """The shards that a whole view has a group of; those whose tar is damaged are not among them."""
    views: Mapping[int, Mapping[str, GroupEntry]]
    """The groups of each view, by shard."""
    files: Mapping[str, str]
    """SHA-256 of the files that stand once in a store: header, quarantine, and the metadata above the groups."""
    awaited: tuple[str, ...] = ()
    """Shards that were not there yet when the store was made of a set whose ingest had not ended."""
    generations: tuple[Mapping[str, Any], ...] = ()
    """What the header says was added to the shards since their first generation; kept twice, for repairs."""
    statistics: Statistics | None = None
    """Of each channel, over the valid clips of all groups; None where a group was made before they were recorded."""

    def whole_views(self) -> tuple[int, ...]:
        """Return the views that have a group of every shard that could be read."""
        return tuple(
            view for view, groups in sorted(self.views.items()) if groups and set(self.expected) <= groups.keys()
        )

    def progress(self) -> str:
        """Return how far each view is, in words."""
        parts = [
            f"view {view} holds {len(groups)} of {len(self.expected)} shards"
            for view, groups in sorted(self.views.items())
        ]
        return ", ".join(parts) or "it holds no groups"

    @property
    def complete(self) -> bool:
        """Whether every view has a group of every shard, and no shard is still to come."""
        return bool(self.views) and set(self.whole_views()) == set(self.views) and not self.awaited

    def unfinished_note(self) -> str | None:
        """Return what is missing, in words; None where nothing is."""
        if self.complete:
            return None
        parts = [] if set(self.whole_views()) == set(self.views) and self.views else [self.progress()]
        if self.awaited:
            there = len(self.expected)
            parts.append(
                f"it was made of the {there:,} shards that were there; {len(self.awaited):,} or more were to come (end "
                "the ingest, then run the stage again)"
            )
        return "; ".join(parts)

    def samples(
        self, views: Sequence[int]
    ) -> tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]]:
        """Return view, shard (position among the sorted names) and row of each valid clip of the views, in order."""
        units = {unit: number for number, unit in enumerate(sorted(self.keys))}
        columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for view in views:
            for unit, entry in sorted(self.views[view].items()):
                rows = np.arange(len(self.keys[unit]), dtype=np.int32)
                if entry.invalid:
                    rows = np.delete(rows, np.array(entry.invalid))
                columns.append((np.full_like(rows, view), np.full_like(rows, units[unit]), rows))
        if not columns:
            empty = np.zeros(0, np.int32)
            return empty, empty, empty
        view_column, unit_column, row_column = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return view_column, unit_column, row_column

    def group(self, root: Location, view: int, unit: str, packs: Packs | None = None) -> GroupHandle:
        """Return a group to read; `packs` are those of the store, looked up once for many groups."""
        return GroupHandle(root, view, unit, self.keys[unit], self.layout, self.views[view][unit].sha256, packs)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `index.json`, without its seal."""
        return {
            "format": self.layout.format,
            "layout": self.layout.to_json(),
            "grid": list(self.grid),
            "keys": {unit: list(keys) for unit, keys in self.keys.items()},
            "sources": {unit: sources_to_json(self.sources[unit]) for unit in self.keys},
            "expected": list(self.expected),
            **({"awaited": list(self.awaited)} if self.awaited else {}),
            **({"generations": [dict(entry) for entry in self.generations]} if self.generations else {}),
            **({"statistics": self.statistics.to_json()} if self.statistics is not None else {}),
            "files": dict(self.files),
            "views": {
                str(view): {unit: entry.to_json() for unit, entry in groups.items()}
                for view, groups in self.views.items()
            },
        }

    @classmethod
    def read(cls, root: Location) -> StoreIndex:
        """Read `index.json`.

        Raises:
            ArtifactError: the stage has not ended, or the index is of a format that is not known here.
            DamagedError: it is damaged.
        """
        try:
            value = read_index(root)
        except DamagedError:
            raise
        except ArtifactError as error:
            note = dropped_note(root)
            if note is not None and not any(view_number(name) is not None for name in root.list()):
                raise ArtifactError(f"{root} holds no views: {note}; run deltactl featurize to make some") from error
            raise
        written = read_format(value)
        layout, names = Layout.of(value.nested("layout"), written), value.nested("keys")
        keys = {unit: names.texts(unit) for unit in names.values}
        views: dict[int, dict[str, GroupEntry]] = {}
        for view, groups in value.objects("views"):
            if not view.isdecimal():
                raise value.wrong("views", view, "numbers of views as names")
            views[int(view)] = {unit: GroupEntry.of(entry) for unit, entry in groups.objects()}
            for unit, entry in views[int(view)].items():
                if unit not in keys or any(row >= len(keys[unit]) for row in entry.invalid):
                    raise value.wrong(f"views.{view}.{unit}", entry.invalid, "rows of a shard that has keys")
        return cls(
            layout=layout,
            grid=grid_of(value, layout),
            keys=keys,
            sources=IndexedSources(keys, None if written == 1 else value.nested("sources")),
            expected=tuple(value.texts("expected")),
            views=views,
            files=value.text_map("files"),
            awaited=tuple(value.texts("awaited")) if "awaited" in value else (),
            generations=value.entries("generations"),
            statistics=Statistics.read(value, layout.frame_shape[-1]),
        )


def read_format(value: Fields) -> int:
    """Return the format of an index or a group.

    Raises:
        ArtifactError: this program does not read it.
    """
    if (found := value.integer("format")) not in FORMATS:
        raise ArtifactError(f"{value.place} has format {found}; this program reads {', '.join(map(str, FORMATS))}")
    return found


def grid_of(value: Fields, layout: Layout) -> tuple[int, int]:
    """Return rows and columns of patches as an index or a group gives them; DamagedError unless they fit the layout."""
    rows, columns = value.integers("grid", 2)
    if layout.kind == "features" and rows * columns != layout.frame_shape[0]:
        raise value.wrong("grid", f"{rows} × {columns}", f"{layout.frame_shape[0]} patches")
    return rows, columns
