"""The held-out clips, batch by batch, for the validations between training steps.

All processes compute the same number of batches; with DDP an uneven count would deadlock. So a few clips are left out
where they do not divide, and every process computes all of them where there are fewer clips than processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from deltactl.featurize.pipeline.background import read_ahead
from deltactl.train.data.batches import READS_AHEAD, Batch, Source
from deltactl.train.data.order import Places

LARGEST = 2048
"""Clips that a validation computes at most, spread evenly over those held out."""


class InOrder:
    """The order of a validation: the clips as they lie in the store, under the first view."""

    def at(self, places: Int64[np.ndarray, " n"]) -> Places:
        """Return clip n at place n."""
        return Places(np.zeros_like(places), places)


class HeldOut:
    """The batches of one process; iterate again for the next validation."""

    def __init__(self, source: Source, batch: int, rank: int, processes: int) -> None:
        self._source = source
        self._batch = batch
        self.places = share(min(source.clips, LARGEST), source.clips, rank, processes)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.places), self._batch)
        parts = (self.places[start : start + self._batch] for start in starts)
        return read_ahead(map(self._source.start, parts), READS_AHEAD)


def share(count: int, clips: int, rank: int, processes: int) -> Int64[np.ndarray, " n"]:
    """Return the clips that one of the processes computes of `count` spread evenly over `clips`."""
    places = np.arange(count, dtype=np.int64) * clips // count
    if count < processes:
        return places
    return places[: count - count % processes][rank::processes]
