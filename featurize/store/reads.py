"""Reads that are under way, and what carries them out in this process: threads, tensorstore, or ranged requests.

Takes spans of groups and a buffer; what is damaged or missing is a DamagedError that names it, what does not arrive a
StorageError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from deltactl.errors import StorageError
from deltactl.featurize.store.group import Span
from deltactl.featurize.store.ranges_reader import RangesReader, is_forked_from_tensorstore
from deltactl.locations import Location

READ_TIMEOUT_SECONDS = 300.0
LOCAL_THREADS = min(16, max(4, os.cpu_count() or 4))
"""As many as cores, to copy and take checksums; at least a few, so that a disk has something to choose from."""
REMOTE_REQUESTS = 64
FORKED_REQUESTS = 16


class Reading:
    """Frames on their way into a buffer."""

    def __init__(self, out: Tensor, futures: Sequence[Future[None]]) -> None:
        self._out = out
        self._futures = futures

    def done(self) -> bool:
        """Whether all of it has arrived (or failed)."""
        return all(future.done() for future in self._futures)

    def result(self, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> Tensor:
        """Wait and return the buffer.

        Raises:
            DamagedError, StorageError: a part of it could not be read.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            for future in self._futures:
                future.result(timeout=max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError as error:
            self.cancel()
            raise StorageError(f"features did not arrive within {timeout_seconds:g} s; is the storage down?") from error
        except BaseException:
            self.cancel()
            raise
        return self._out

    def cancel(self) -> None:
        """Drop what has not begun; the buffer's content is then undefined."""
        for future in self._futures:
            future.cancel()


@runtime_checkable
class Reader(Protocol):
    """What reads spans: `LocalReader`, `RemoteReader` or `RangesReader`."""

    def start(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames *frame"]) -> list[Future[None]]:
        """Begin to read each span into its row of `out`."""
        ...

    def start_rows(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames"]) -> list[Future[None]]:
        """Begin the same with spans of one chunk and few bytes each, in whatever way suits many of them."""
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
