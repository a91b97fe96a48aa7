"""The delta tokens of a batch of clips, each pair of frames encoded once for all rows and horizons.

Horizon 3 with four frames of context needs the pairs black→0, 0→1, 1→2, 2→3, horizon 1 black→2, 2→3, 3→4, 4→5: the
context of each horizon is a clip of its own, whose first frame is encoded against the black frame, and the rest is
shared. Cost: one encoder pass over `K + 2P` tokens a pair.

B batch · T frames · P patches · K tokens of a frame · D feature width, d token width
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.evaluate.protocol.futures import sequences_at_once
from deltactl.evaluate.protocol.predictions import Batch
from deltactl.train.networks.deltatok import DeltaTok

BLACK = -1
"""Stands for the black frame where the index of a previous frame is expected."""

Pair = tuple[int, int]
"""Indices of (previous, current) frame in the clip."""


def clip_pairs(start: int, stop: int) -> list[Pair]:
    """Return the pairs of the clip of frames `start … stop - 1`; its first frame comes after the black frame."""
    return [(BLACK if frame == start else frame - 1, frame) for frame in range(start, stop)]


class PairTokens:
    """The tokens of the given pairs of frames of every clip in a batch."""

    def __init__(self, tokenizer: DeltaTok, batch: Batch, pairs: Iterable[Pair]) -> None:
        self._tokens: dict[Pair, Float[Tensor, "B K d"]] = {}
        ordered = sorted(set(pairs))
        items, _, patches, dim = batch.features.shape
        # A pair is a sequence twice as long as what the limit counts.
        at_once = max(
            1, sequences_at_once(batch.features.device, patches, dim, tokenizer.config.tokens_per_frame) // (2 * items)
        )
        for start in range(0, len(ordered), at_once):
            some = ordered[start : start + at_once]
            previous = torch.cat([_frame(batch, before) for before, _ in some])
            current = torch.cat([_frame(batch, after) for _, after in some])
            tokens = tokenizer.encode(previous, current, batch.grid)
            self._tokens.update(zip(some, tokens.split(items), strict=True))

    def pair(self, previous: int, current: int) -> Float[Tensor, "B K d"]:
        """Return the tokens of one pair."""
        return self._tokens[previous, current]

    def clip(self, start: int, stop: int) -> Float[Tensor, "B T K d"]:
        """Return the tokens of the clip of frames `start … stop - 1`."""
        return torch.stack([self._tokens[pair] for pair in clip_pairs(start, stop)], dim=1)


def _frame(batch: Batch, index: int) -> Float[Tensor, "B P D"]:
    if index == BLACK:
        return batch.black.expand(len(batch.keys), -1, -1)
    return batch.features[:, index]
