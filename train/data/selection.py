"""Which clips train and which are held out, and how the views take turns.

Clips are held out by a hash of the name of their source: no frame of a held-out video trains, whatever is added later.
Each epoch reads every training clip once, under one view; the next epoch takes the next view. Takes the index of a
store or of shards, returns numbers of its samples; 4 million clips take about 3 s.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from deltactl.errors import ConfigError
from deltactl.ingest.shards.clip_index import ClipIndex
from deltactl.ingest.shards.held_out import held_out_sources
from deltactl.train.data.order import Places


@dataclass(frozen=True)
class Selection:
    """Some clips of a store or of shards, shard by shard."""

    samples: Int64[np.ndarray, "view clip"]
    """Number of the sample that shows each clip under each view."""
    shard_sizes: tuple[int, ...]
    """How many of the clips lie in each shard."""

    @property
    def clips(self) -> int:
        """Number of clips."""
        return self.samples.shape[1]

    @property
    def views(self) -> int:
        """Number of views that take turns."""
        return self.samples.shape[0]

    def at(self, places: Places) -> Int64[np.ndarray, " n"]:
        """Return the samples at places of the stream."""
        return self.samples[places.epoch % self.views, places.clip]


def select(
    index: ClipIndex, held_out: float, left_out: Collection[str] = frozenset(), *, apart: bool = False
) -> tuple[Selection, Selection]:
    """Return the clips that train and those that are held out: about the share `held_out` of the sources.

    Where the share is above 0 and there are two sources or more, at least one is held out and one trains. Clips that
    cannot be read in all views are in neither, and so are those with the keys `left_out`. Which sources are held out
    does not depend on what is left out, but where the share is so small that the one with the least hash stands for it.

    `apart`: each view of a clip counts as a clip by itself, whether the clip has the others or not; none take turns.

    Raises:
        ConfigError: nothing is left to train on.
        DamagedError: a sidecar of shards is gone or damaged.
    """
    samples, units, rows = _each_view(index) if apart else _clips_in_all_views(index)
    if left_out:
        keys = [index.keys_of(unit) for unit in index.units]
        kept = [keys[unit][row] not in left_out for unit, row in zip(units.tolist(), rows.tolist(), strict=True)]
        samples, units, rows = samples[:, kept], units[kept], rows[kept]
    names = [index.sources_of(unit) for unit in index.units]
    sources = [names[unit][row] for unit, row in zip(units.tolist(), rows.tolist(), strict=True)]
    held = held_out_sources(sources, held_out)
    mask = np.fromiter((source in held for source in sources), dtype=bool, count=len(sources))
    if mask.all():
        without = f", {len(left_out):,} are named to be left out" if left_out else ""
        raise ConfigError(
            f"{index.root} has no clip to train on: {len(sources)} clips can be read, {len(held)} sources held "
            f"out{without}"
        )
    return _selection(samples, units, ~mask, len(names)), _selection(samples, units, mask, len(names))


def _clips_in_all_views(
    index: ClipIndex,
) -> tuple[Int64[np.ndarray, "view clip"], Int64[np.ndarray, " clip"], Int64[np.ndarray, " clip"]]:
    """Return the samples of the clips that every view shows, and the shard and row of each clip."""
    view, unit, row = (column.astype(np.int64) for column in index.origins)
    rows = int(row.max(initial=0)) + 1
    clip = unit * rows + row
    common = clip[view == index.views[0]]
    for each in index.views[1:]:
        common = np.intersect1d(common, clip[view == each], assume_unique=True)
    common = np.sort(common)
    by_view = []
    for each in index.views:
        numbers = np.flatnonzero(view == each)
        order = np.argsort(clip[numbers])
        by_view.append(numbers[order[np.searchsorted(clip[numbers], common, sorter=order)]])
    return np.stack(by_view), common // rows, common % rows


def _each_view(
    index: ClipIndex,
) -> tuple[Int64[np.ndarray, "1 sample"], Int64[np.ndarray, " sample"], Int64[np.ndarray, " sample"]]:
    """Return all samples, shard by shard, and the shard and row of the clip of each."""
    _, unit, row = (column.astype(np.int64) for column in index.origins)
    samples = np.argsort(unit, kind="stable")
    return samples[None], unit[samples], row[samples]


def _selection(
    samples: Int64[np.ndarray, "view clip"],
    units: Int64[np.ndarray, " clip"],
    mask: Bool[np.ndarray, " clip"],
    shards: int,
) -> Selection:
    sizes = np.bincount(units[mask], minlength=shards)
    return Selection(np.ascontiguousarray(samples[:, mask]), tuple(sizes.tolist()))
