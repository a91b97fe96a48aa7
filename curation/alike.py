"""The clips that are most like a clip, exactly: cosines of all pairs, block by block.

Takes looks (vectors of unit length) and who must not be compared, returns numbers and cosines. Memory is one block of
cosines and two of looks, whatever the number of clips; the work grows with its square: 100,000 clips of width 768 are
7.7 TFLOP, some minutes on two cores, 4 million on a GPU likewise. Ties go to the lowest number, and neither the size of
a block nor the number of threads decides what is found, but for cosines that differ in the last digits.

Shapes: N clips · Q queries · L width of a look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

BLOCK = 4096
NONE = -1
"""In the place of a number: there is no such clip."""


@dataclass(frozen=True)
class Earlier:
    """For each clip the most similar one before it; `NONE` and a cosine of -inf where there is none."""

    number: Int64[np.ndarray, " N"]
    cosine: Float32[np.ndarray, " N"]


def most_alike_before(
    looks: Float32[np.ndarray, "N L"],
    videos: Int64[np.ndarray, " N"],
    *,
    among: Int64[np.ndarray, " M"] | None = None,
    rows: Bool[np.ndarray, " N"] | None = None,
    block: int = BLOCK,
    device: str = "cpu",
) -> tuple[Earlier, Earlier]:
    """Return for each clip the most similar one before it of another video, and that of its own video.

    `videos` numbers the video of each clip; `among` are the clips that are compared, in order, by default all; `rows`
    says for which clips an answer is wanted.
    """
    count = len(looks)
    among = np.arange(count) if among is None else among
    found = tuple(Earlier(np.full(count, NONE, np.int64), np.full(count, -np.inf, np.float32)) for _ in range(2))
    wanted = among if rows is None else among[rows[among]]
    for start in range(0, len(wanted), block):
        mine = wanted[start : start + block]
        queries = torch.from_numpy(looks[mine]).to(device)
        before = among[: np.searchsorted(among, mine[-1])]
        for first in range(0, len(before), block):
            others = before[first : first + block]
            cosines = queries @ torch.from_numpy(looks[others]).to(device).T
            later, same = others[None] >= mine[:, None], videos[others][None] == videos[mine][:, None]
            for each, banned in zip(found, (later | same, later | ~same), strict=True):
                allowed = cosines.masked_fill(torch.from_numpy(banned).to(device), -torch.inf)
                value, best = (part.cpu().numpy() for part in allowed.max(dim=1))
                better = value > each.cosine[mine]
                each.cosine[mine[better]] = value[better]
                each.number[mine[better]] = others[best[better]]
    return found[0], found[1]


@dataclass(frozen=True)
class Nearest:
    """The most similar clips of some queries, the most similar first; `NONE` behind the last one there is."""

    numbers: Int64[np.ndarray, "Q k"]
    cosines: Float32[np.ndarray, "Q k"]


class NearestSearch:
    """The `k` most similar of the clips that are handed over block after block."""

    def __init__(self, queries: Float32[Tensor, "Q L"], k: int) -> None:
        """Set up; looks of unit length.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        self._queries = queries
        self._numbers = torch.full((len(queries), k), NONE, dtype=torch.int64)
        self._cosines = torch.full((len(queries), k), -torch.inf)

    def add(
        self,
        looks: Float32[Tensor, "N L"],
        numbers: Int64[Tensor, " N"],
        banned: Bool[Tensor, "Q N"] | None = None,
    ) -> None:
        """Look among clips with these numbers, which rise from call to call; `banned` are not to be found."""
        cosines = self._queries @ looks.T
        if banned is not None:
            cosines = cosines.masked_fill(banned, -torch.inf)
        k = self._numbers.shape[1]
        cosines = torch.cat((self._cosines, cosines), dim=1)
        order = cosines.sort(dim=1, descending=True, stable=True).indices[:, :k]
        numbers = torch.cat((self._numbers, numbers.expand(len(self._queries), -1)), dim=1)
        self._cosines, self._numbers = cosines.gather(1, order), numbers.gather(1, order)

    def result(self) -> Nearest:
        """Return what was found."""
        numbers = self._numbers.masked_fill(self._cosines == -torch.inf, NONE)
        return Nearest(numbers.numpy(), self._cosines.numpy())
