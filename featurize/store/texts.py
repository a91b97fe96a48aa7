"""Reads the texts that clips of a store carry, from the attributes of their groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from deltactl.featurize.store.finish import read_group_files
from deltactl.featurize.store.packs import range_name
from deltactl.ingest.shards.columns import Columns, text_columns
from deltactl.locations import Location

GroupOf = tuple[int, str]
"""View and shard of a group."""


def read_texts(root: Location, clips: Sequence[tuple[int, str, int]], columns: Columns) -> dict[str, list[Any]]:
    """Return the texts of clips, each named by view, shard and row, by column: one for each clip, or lists of them.

    Raises:
        DamagedError: what a group says of itself is not as it was written.
    """
    named = text_columns(columns)
    groups = list(dict.fromkeys((view, unit) for view, unit, _ in clips)) if named else []
    said = {group: file.texts for group, file in zip(groups, read_group_files(root, groups), strict=True)}
    return {column.name: [said[view, unit][column.name][row] for view, unit, row in clips] for column in named}


class KeptTexts:
    """Reads the same again and again: a group is read once, and what may lie in one pack with it, together."""

    def __init__(self, root: Location, columns: Columns, groups: Collection[GroupOf], *, packed: bool) -> None:
        """`groups`: all that may be asked for; `packed`: whether several of them may be one file."""
        self._root = root
        self._names = [column.name for column in text_columns(columns)]
        self._groups = groups
        self._packed = packed
        self._kept: dict[GroupOf, Mapping[str, Sequence[Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def of(self, clips: Sequence[tuple[int, str, int]]) -> dict[str, list[Any]]:
        """Return what `read_texts` does."""
        if not self._names:
            return {}
        wanted = {(view, unit) for view, unit, _ in clips} - self._kept.keys()
        if wanted and self._packed:
            packs = {(view, range_name(unit)) for view, unit in wanted}
            wanted = {group for group in self._groups if (group[0], range_name(group[1])) in packs} - self._kept.keys()
        if wanted:
            groups = sorted(wanted)
            for group, file in zip(groups, read_group_files(self._root, groups), strict=True):
                self._kept[group] = {name: file.texts[name] for name in self._names}
        return {name: [self._kept[view, unit][name][row] for view, unit, row in clips] for name in self._names}
