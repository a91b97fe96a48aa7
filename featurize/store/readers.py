"""Chooses what reads a store by where it lies: on a disk, in an object store, or on the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from deltactl.featurize.store.group import Span
from deltactl.featurize.store.ranges_reader import RangesReader, is_forked_from_tensorstore
from deltactl.locations import Location

LOCAL_THREADS = min(16, max(4, os.cpu_count() or 4))
"""As many as cores, to copy and take checksums; at least a few, so that a disk has something to choose from."""
REMOTE_REQUESTS = 64
FORKED_REQUESTS = 16


@runtime_checkable
class Reader(Protocol):
    """What reads spans: `LocalReader`, `RemoteReader` or `RangesReader`."""

    def start(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames *frame"]) -> list[Future[None]]:
        """Begin to read each span into its row of `out`."""
        ...

    def close(self) -> None:
        """Stop reading."""


def make_reader(root: Location, threads: int = LOCAL_THREADS, requests: int = REMOTE_REQUESTS) -> Reader:
    """Return what reads the store at `root` in this process, with so many threads or requests at once."""
    if root.is_local:
        from deltactl.featurize.store.local_reader import LocalReader

        return LocalReader(threads)
    if root.is_on_hub or is_forked_from_tensorstore():  # tensorstore does not know the Hub
        return RangesReader(min(requests, FORKED_REQUESTS))
    from deltactl.featurize.store.remote_reader import RemoteReader

    return RemoteReader(requests)
