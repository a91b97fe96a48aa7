"""What is known of clips without reading them: their shards, their views, and the source of each.

A set of shards and a store are both a `ClipIndex`, so that whoever chooses clips does it once for both. In files the
names of sources stand as runs, since the clips of a source follow each other: each name once, with the number of clips
that follow each other and have it. For Kinetics-700 with one clip a video that is about 45 bytes a clip; eight clips
cost as much as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, repeat
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from deltactl.fields import Fields
from deltactl.locations import Location

Origins = tuple[Shaped[np.ndarray, " sample"], Shaped[np.ndarray, " sample"], Shaped[np.ndarray, " sample"]]


@runtime_checkable
class ClipIndex(Protocol):
    """Clips in shards, under views; a sample is one clip under one view. `ShardSet` and `ClipStore` are such."""

    root: Location

    @property
    def units(self) -> Sequence[str]:
        """Names of the shards, in order."""

    @property
    def views(self) -> Sequence[int]:
        """Numbers of the views, in order."""

    @property
    def origins(self) -> Origins:
        """View, shard (its position among `units`) and row in the shard of each sample."""

    def sources_of(self, unit: str) -> Sequence[str]:
        """Return the name of the source of each clip of a shard, row by row."""

    def keys_of(self, unit: str) -> Sequence[str]:
        """Return the key of each clip of a shard, row by row."""


def sources_to_json(sources: Sequence[str]) -> dict[str, Any]:
    """Return what `sources_from` reads: `names` of sources, and how many `clips` in a row are of each."""
    runs = [(name, len(list(run))) for name, run in groupby(sources)]
    return {"names": [name for name, _ in runs], "clips": [clips for _, clips in runs]}


def sources_from(value: Fields, clips: int) -> tuple[str, ...]:
    """Return the name of each clip's source, of so many clips.

    Raises:
        DamagedError: `value` is not what `sources_to_json` returned for that number of clips.
    """
    names, runs = value.texts("names"), value.integers("clips", len(value.array("names")), least=1)
    if sum(runs) != clips:
        raise value.wrong("clips", sum(runs), f"{clips} clips in all")
    return tuple(chain.from_iterable(map(repeat, names, runs)))
