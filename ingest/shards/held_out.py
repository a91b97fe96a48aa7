"""Which sources are held out: a hash of their names, so that no video is both trained on and held out, now or later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def share_of(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone: whether a source is held out, say."""
    data = text.encode("utf-8", "surrogatepass")  # a source may be a path that is not UTF-8
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little") / 2**32


def held_out_sources(sources: Iterable[str], share: float, salt: str = "") -> set[str]:
    """Return the sources whose hash falls into the share; the one with the least hash where none does.

    `salt` is put before their names, for another draw; without one it is that of training.
    """
    shares = {source: share_of(f"{salt}{source}") for source in set(sources)}
    held = {source for source, value in shares.items() if value < share}
    if share > 0 and not held and len(shares) > 1:
        held = {min(shares, key=lambda source: shares[source])}
    return held
