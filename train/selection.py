"""Which clips of a store train and which are held out, and how the views take turns.

Clips are held out by hash of their source, so that no frame of a held-out video trains, whatever is added to the store
later. Each epoch reads every training clip once, under one view; the next epoch takes the next view. In come a store's
index, out come numbers of its samples; 4 million clips take about 3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from deltactl.errors import ConfigError
from deltactl.featurize.store import ClipStore
from deltactl.ingest.keys import source_of
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.train.draws import share_of
from deltactl.train.order import Places


@dataclass(frozen=True)
class Selection:
    """Some clips of a store, shard by shard."""

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


def select(store: ClipStore, held_out: float) -> tuple[Selection, Selection]:
    """Return the clips of a store that train and those that are held out: about the share `held_out` of the sources.

    Where the share is above 0 and the store has two sources or more, at least one is held out and one trains. Clips
    that cannot be read in all views are in neither. ConfigError where nothing is left to train on.
    """
    samples, units = _clips_in_all_views(store)
    return _split([store.keys[sample] for sample in samples[0]], samples, units, len(store.units), held_out, store.root)


def select_live(shards: ShardSet, held_out: float) -> tuple[Selection, Selection, tuple[str, ...]]:
    """Return the same for shards, whose clips are numbered shard by shard, and the key of each; one view."""
    keys: list[str] = []
    units: list[int] = []
    for number, unit in enumerate(shards.units):
        keys += shards.keys(unit)
        units += [number] * shards.clips_in(unit)
    samples = np.arange(len(keys), dtype=np.int64)[None]
    shard_of = np.asarray(units, dtype=np.int64)
    train, held = _split(keys, samples, shard_of, len(shards.units), held_out, shards.root)
    return train, held, tuple(keys)


def held_out_sources(sources: Sequence[str], share: float) -> set[str]:
    """Return the sources whose hash falls into the share; the one with the least hash where none does."""
    shares = {source: share_of(source) for source in set(sources)}
    held = {source for source, value in shares.items() if value < share}
    if share > 0 and not held and len(shares) > 1:
        held = {min(shares, key=lambda source: shares[source])}
    return held


def _clips_in_all_views(store: ClipStore) -> tuple[Int64[np.ndarray, "view clip"], Int64[np.ndarray, " clip"]]:
    """Return the samples of the clips that every view shows, and the number of each clip's shard."""
    view, unit, row = (column.astype(np.int64) for column in store.origins)
    rows = int(row.max()) + 1
    clip = unit * rows + row
    common = clip[view == store.views[0]]
    for each in store.views[1:]:
        common = np.intersect1d(common, clip[view == each], assume_unique=True)
    common = np.sort(common)
    by_view = []
    for each in store.views:
        numbers = np.flatnonzero(view == each)
        order = np.argsort(clip[numbers])
        by_view.append(numbers[order[np.searchsorted(clip[numbers], common, sorter=order)]])
    return np.stack(by_view), common // rows


def _split(
    keys: Sequence[str],
    samples: Int64[np.ndarray, "view clip"],
    units: Int64[np.ndarray, " clip"],
    shards: int,
    held_out: float,
    root: Location,
) -> tuple[Selection, Selection]:
    sources = [source_of(key) for key in keys]
    held = held_out_sources(sources, held_out)
    mask = np.fromiter((source in held for source in sources), dtype=bool, count=len(sources))
    if mask.all():
        raise ConfigError(
            f"{root} has no clip to train on: {len(keys)} clips can be read, {len(held)} sources held out"
        )
    return _selection(samples, units, ~mask, shards), _selection(samples, units, mask, shards)


def _selection(
    samples: Int64[np.ndarray, "view clip"],
    units: Int64[np.ndarray, " clip"],
    mask: Bool[np.ndarray, " clip"],
    shards: int,
) -> Selection:
    sizes = np.bincount(units[mask], minlength=shards)
    return Selection(np.ascontiguousarray(samples[:, mask]), tuple(sizes.tolist()))
