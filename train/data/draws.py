"""Every random draw of training, as a pure function of the run's seed, what is drawn, and for which sample.

Nothing here depends on what was drawn before, so a run that was interrupted, or that is split over other devices,
draws the same. Takes integers and words, returns 64-bit numbers; a million of them take 30 ms.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def seed_of(*parts: int | str) -> int:
    """Return a seed for torch or numpy, 0 to 2⁶³ − 1, that stands for all the parts together."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def scramble(seed: int, numbers: Int64[np.ndarray, " n"] | UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Return a random-looking 64-bit number for each number: splitmix64 (Steele et al., 2014), keyed by `seed`."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) * _GOLDEN + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        x = (x ^ (x >> np.uint64(31))) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        return x ^ (x >> np.uint64(31))
