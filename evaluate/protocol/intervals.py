"""95 % intervals: how far numbers would move on other videos like these, and with other seeds of the sampler.

A bootstrap: videos, not clips, are drawn with replacement, as many as there are, since clips of one video are alike. A
number of the drawn videos follows from their sums (`videos`), mIoU from summed intersections and unions; images are not
looked at again. Every row is resampled by the same draws, so that differences of rows are paired.

The interval lies between percentiles, wider than 2.5 % and 97.5 % where videos are few (Hesterberg 2015, the expanded
percentile interval: what Student's t is to the normal distribution). Seeds are drawn one fewer than there are, which
makes the spread of their mean right (Rao and Wu 1988). `docs/decisions.md` tells how often it holds the truth.

A share of outcomes that are independent of each other, such as how often pairs are told right, has Wilson's interval
(`wilson`), which is honest also where all are right.

Cost: R · V · N multiplications a row; 0.04 s for VSPW on a core.

R repeats · V videos · N sums · K values of a score · S seeds
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64, UInt16

REPEATS = 2000
LEVEL = 0.95
MOST_WITHOUT = 0.05
"""Share of the repeats that may have nothing to measure, such as no pixel of a class; with more there is no interval.
A class that three of many videos have is absent from a twentieth of the repeats."""
Z = 1.959964
"""Of the normal distribution, 97.5 % lie below."""
_AT_ONCE = 256
"""Repeats whose weights are numbers of 8 bytes at one time."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies, at 95 %."""

    low: float
    high: float


def ends_of(interval: Interval | None) -> dict[str, float | None]:
    """Return where an interval begins and ends, as reports say it; None where there is none."""
    return {"low": None, "high": None} if interval is None else {"low": interval.low, "high": interval.high}


class Resampling:
    """Draws of videos, and of seeds. The same numbers of both give the same draws."""

    def __init__(self, videos: int, seeds: int = 1, repeats: int = REPEATS) -> None:
        self.videos = videos
        self.seeds = seeds
        generator = np.random.default_rng(0)
        even = np.full(max(videos, 1), 1 / max(videos, 1))
        self._weights: UInt16[np.ndarray, "R V"] = generator.multinomial(videos, even, repeats).astype(np.uint16)
        of_seeds = generator.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), repeats)
        self._of_seeds: Float64[np.ndarray, "R S"] = of_seeds / max(seeds - 1, 1)
        self._tail = tail(videos)

    def sums(self, sums: Float64[np.ndarray, "V N"]) -> Float64[np.ndarray, "R N"]:
        """Return the sums of the drawn videos."""
        parts = [
            self._weights[first : first + _AT_ONCE].astype(np.float64) @ sums
            for first in range(0, len(self._weights), _AT_ONCE)
        ]
        return np.concatenate(parts)

    def over_seeds(self, values: Sequence[Float64[np.ndarray, "R K"]]) -> Float64[np.ndarray, "R K"]:
        """Return the means over the drawn seeds, from the values of each seed."""
        return np.asarray(sum(self._of_seeds[:, seed, None] * each for seed, each in enumerate(values)))

    def intervals(self, values: Float64[np.ndarray, "R K"]) -> list[Interval | None]:
        """Return the interval of each of several values; None where there is too little to tell one from."""
        if self.videos < 2:
            return [None] * values.shape[1]
        measured = ~np.isnan(values)
        found: list[Interval | None] = []
        for column, there in zip(values.T, measured.T, strict=True):
            if there.mean() < 1 - MOST_WITHOUT:
                found.append(None)
                continue
            low, high = np.quantile(column[there], [self._tail, 1 - self._tail])
            found.append(Interval(float(low), float(high)))
        return found


def wilson(share: float, count: int) -> Interval:
    """Return Wilson's 95 % interval of a share of `count` independent outcomes, each between 0 and 1."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def tail(videos: int) -> float:
    """Return the share of the repeats that lies on each side of the interval: 2.5 %, less with few videos."""
    if videos < 2:
        return (1 - LEVEL) / 2
    wider = math.sqrt(videos / (videos - 1))
    return NormalDist().cdf(-student_t(videos - 1) * wider)


def student_t(freedom: int) -> float:
    """Return the quantile of Student's t distribution above which 2.5 % lie, to three digits from 4 degrees on.

    By its expansion about the normal quantile (Abramowitz and Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
