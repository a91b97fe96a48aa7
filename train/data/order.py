"""The order of the clips: which clip stands at which place of the endless stream that training reads.

The stream is one epoch after the other, each epoch a shuffle of all clips. A place is found by arithmetic alone, a
keyed permutation of the numbers below n (a Feistel network over √n × √n, walked on where it leaves the n; Black
and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Finding the place of step 900,000 costs what step 0 does,
nothing is kept in memory, and neither devices nor interruptions change what comes. 1,024 places take 0.3 ms.

For slow storage the shuffle is by blocks of shards: the shards are shuffled, cut into blocks, and the clips shuffled
within each block: a block's shards are read once an epoch, and near each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from deltactl.train.data.draws import scramble, seed_of

ROUNDS = 8


@dataclass(frozen=True)
class Places:
    """What stands at some places of the stream."""

    epoch: Int64[np.ndarray, " n"]
    """How many times all clips came before."""
    clip: Int64[np.ndarray, " n"]
    """Number of the clip, 0 to count − 1, shard by shard."""


class ClipOrder:
    """The order of `sum(shard_sizes)` clips for one seed; see the module docstring.

    `block_shards` None shuffles globally, otherwise so many shards make a block.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, block_shards: int | None = None) -> None:
        if block_shards is not None and block_shards < 1:
            raise ValueError(f"block_shards is {block_shards}, expected at least 1, or None for a global shuffle")
        self.count = int(sum(shard_sizes))
        if self.count < 1:
            raise ValueError("there are no clips to order")
        self.seed = seed
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.concatenate(([0], np.cumsum(self._sizes)))
        self._block_shards = block_shards
        self._shuffled_shards = lru_cache(maxsize=4)(self._shuffle_shards)

    def at(self, places: Int64[np.ndarray, " n"]) -> Places:
        """Return epoch and clip at each place, 0 on."""
        epochs, within = np.divmod(places, self.count)
        clips = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            find = self._global if self._block_shards is None else self._by_blocks
            clips[chosen] = find(int(epoch), within[chosen])
        return Places(epochs, clips)

    def _global(self, epoch: int, within: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return permute(within, self.count, seed_of(self.seed, "order", epoch))

    def _by_blocks(self, epoch: int, within: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        shards, starts = self._shuffled_shards(epoch)
        block_starts = starts[:: self._block_shards]
        if block_starts[-1] != self.count:
            block_starts = np.append(block_starts, self.count)
        blocks = np.searchsorted(block_starts, within, side="right") - 1
        shuffled = np.empty_like(within)
        for block in np.unique(blocks):
            chosen = blocks == block
            first, end = block_starts[block], block_starts[block + 1]
            key = seed_of(self.seed, "block", epoch, int(block))
            shuffled[chosen] = first + permute(within[chosen] - first, int(end - first), key)
        slot = np.searchsorted(starts, shuffled, side="right") - 1
        return self._starts[shards[slot]] + shuffled - starts[slot]

    def _shuffle_shards(self, epoch: int) -> tuple[Int64[np.ndarray, " shards"], Int64[np.ndarray, " shards+1"]]:
        """Return this epoch's order of the shards that hold clips, and where each starts in it."""
        filled = np.flatnonzero(self._sizes)
        shards = filled[permute(np.arange(len(filled)), len(filled), seed_of(self.seed, "shards", epoch))]
        return shards, np.concatenate(([0], np.cumsum(self._sizes[shards])))


def permute(numbers: Int64[np.ndarray, " n"], count: int, key: int) -> Int64[np.ndarray, " n"]:
    """Return where a keyed permutation of 0 … count − 1 takes each number."""
    rows = np.uint64(math.isqrt(count - 1) + 1)
    columns = np.uint64(-(-count // int(rows)))
    keys = [seed_of(key, turn) for turn in range(ROUNDS)]
    result = numbers.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):
        row, column = np.divmod(result[walking], columns)
        for turn in range(0, ROUNDS, 2):
            row = (row + scramble(keys[turn], column) % rows) % rows
            column = (column + scramble(keys[turn + 1], row) % columns) % columns
        result[walking] = row * columns + column
        walking = walking[result[walking] >= np.uint64(count)]
    return result.astype(np.int64)


@dataclass(frozen=True)
class BatchPlan:
    """How the stream is cut into batches: a step takes the next `effective` samples, whoever computes them."""

    batch: int
    """Samples that one device computes at once."""
    devices: int = 1
    """Devices on all nodes together."""
    accumulate: int = 1
    """Batches whose gradients are summed before the optimiser steps."""

    def __post_init__(self) -> None:
        if min(self.batch, self.devices, self.accumulate) < 1:
            raise ValueError(f"{self}: expected at least 1 each")

    @property
    def effective(self) -> int:
        """Samples of one optimiser step."""
        return self.batch * self.devices * self.accumulate

    def places(self, step: int, turn: int, rank: int) -> Int64[np.ndarray, " batch"]:
        """Return the places of the stream that device `rank` computes in the `turn`-th batch of a step."""
        first = step * self.effective + (turn * self.devices + rank) * self.batch
        return np.arange(first, first + self.batch, dtype=np.int64)
