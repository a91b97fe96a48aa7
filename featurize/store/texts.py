"""Reads the texts that clips of a store carry, from the attributes of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltactl.featurize.store.finish import read_group_files
from deltactl.ingest.shards.columns import Columns, text_columns
from deltactl.locations import Location


def read_texts(root: Location, clips: Sequence[tuple[int, str, int]], columns: Columns) -> dict[str, list[Any]]:
    """Return the texts of clips, each named by view, shard and row, by column: one for each clip, or lists of them.

    Raises:
        DamagedError: what a group says of itself is not as it was written.
    """
    named = text_columns(columns)
    groups = list(dict.fromkeys((view, unit) for view, unit, _ in clips)) if named else []
    said = {group: file.texts for group, file in zip(groups, read_group_files(root, groups), strict=True)}
    return {column.name: [said[view, unit][column.name][row] for view, unit, row in clips] for column in named}
