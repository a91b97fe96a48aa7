"""The held-out clips, batch by batch, for the validations between training steps.

All processes compute the same number of batches; with DDP an uneven count would deadlock. So a few clips are left out
where they do not divide, and every process computes all of them where there are fewer clips than processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from deltactl.featurize.pipeline.background import read_ahead
from deltactl.train.data.batches import READS_AHEAD, Batch, Source
from deltactl.train.data.order import Places

LARGEST = 2048
"""Clips that a validation computes at most, of all sets together, spread evenly over those held out of each."""


class InOrder:
    """The order of a validation: the clips as they lie in the store, under the first view."""

    def at(self, places: Int64[np.ndarray, " n"]) -> Places:
        """Return clip n at place n."""
        return Places(np.zeros_like(places), places)


@dataclass(frozen=True)
class HeldOutSet:
    """What is held out of one set."""

    name: str
    """Empty where it is the only one."""
    clips: int
    weight: float
    """Of its figures in those over all sets: its share of the samples that train."""


class HeldOut:
    """The batches of one process, each of one set; iterate again for the next validation."""

    def __init__(
        self, source: Source, batch: int, rank: int, processes: int, sets: Sequence[HeldOutSet] | None = None
    ) -> None:
        """`sets`: those that the source holds one after the other; None for one."""
        self._source = source
        self._batch = batch
        sets = [each for each in sets or [HeldOutSet("", source.clips, 1.0)] if each.clips]
        self.weights = {each.name: each.weight for each in sets}
        """Set to the weight of its figures."""
        self._parts: list[tuple[str, Int64[np.ndarray, " n"]]] = []
        first = 0
        for each, count in zip(sets, spread(LARGEST, [each.clips for each in sets]), strict=True):
            self._parts.append((each.name, first + share(count, each.clips, rank, processes)))
            first += each.clips

    @property
    def places(self) -> Int64[np.ndarray, " n"]:
        """Which of the held-out clips are computed."""
        return np.concatenate([places for _, places in self._parts])

    def __iter__(self) -> Iterator[Batch]:
        return read_ahead(itertools.starmap(self._begin, self._batches()), READS_AHEAD)

    def _batches(self) -> Iterator[tuple[str, Int64[np.ndarray, " B"]]]:
        for name, places in self._parts:
            for start in range(0, len(places), self._batch):
                yield name, places[start : start + self._batch]

    def _begin(self, name: str, places: Int64[np.ndarray, " B"]) -> Callable[[], Batch]:
        wait = self._source.start(places)
        return (lambda: replace(wait(), set_name=name)) if name else wait


def spread(most: int, sizes: Sequence[int]) -> list[int]:
    """Return how many clips of sets of these sizes are computed, `most` in all: as many of each, as far as it has."""
    counts, left = [0] * len(sizes), most
    by_size = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for position, number in enumerate(by_size):
        counts[number] = min(sizes[number], left // (len(sizes) - position))
        left -= counts[number]
    return counts


def share(count: int, clips: int, rank: int, processes: int) -> Int64[np.ndarray, " n"]:
    """Return the clips that one of the processes computes of `count` spread evenly over `clips`."""
    places = np.arange(count, dtype=np.int64) * clips // count
    if count < processes:
        return places
    return places[: count - count % processes][rank::processes]
