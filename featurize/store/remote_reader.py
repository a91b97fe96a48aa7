"""Reads clips of a store in an object store, through tensorstore: many requests at once, checksums verified.

The same interface as the local reader: spans and a buffer in, futures out. tensorstore would wait for a hung request
for ever and would read a deleted chunk as the fill value; here the first ends in StorageError after a while and the
second is a DamagedError that names the chunk. It also reads local stores, which the tests and benchmarks use.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deltactl.errors import DamagedError, StorageError
from deltactl.featurize.store.group import GroupHandle, Span
from deltactl.locations import Location

CACHE_BYTES = 1 << 29
"""Memory for the indexes of Zarr shards, 16 bytes a chunk: 270 MB for all tokens of Kinetics; the frames themselves are
read once and pass through."""
OPEN_ARRAYS = 4096
OPEN_TIMEOUT_SECONDS = 60.0
RETRIES = 8
"""Tries after the first of a request that is refused or broken off; with the delays between them about a minute."""


class RemoteReader:
    """Reads spans of clips with tensorstore."""

    def __init__(self, requests: int) -> None:
        import tensorstore

        self._context = tensorstore.Context(
            {
                "cache_pool": {"total_bytes_limit": CACHE_BYTES},
                "s3_request_concurrency": {"limit": requests},
                "s3_request_retries": {"max_retries": RETRIES, "initial_delay": "250ms", "max_delay": "16s"},
            }
        )
        self._arrays: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        # Opening a group reads its metadata, which must not hold up the caller.
        self._pool = ThreadPoolExecutor(min(requests, 16), thread_name_prefix="store")

    def start(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames *frame"]) -> list[Future[None]]:
        """Begin to read each span into its row of `out`; the futures raise DamagedError or StorageError."""
        futures: list[Future[None]] = []
        for number, span in enumerate(spans):
            future: Future[None] = Future()
            futures.append(future)
            self._pool.submit(self._begin, span, out[number], future)
        return futures

    def start_rows(self, spans: Sequence[Span], out: Shaped[np.ndarray, "span frames"]) -> list[Future[None]]:
        """Begin the same with spans of few bytes each."""
        return self.start(spans, out)

    def close(self) -> None:
        """Stop; reads that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(
        self, span: Span, out: Shaped[np.ndarray, "frames *frame"], future: Future[None], again: bool = True
    ) -> None:
        import tensorstore

        if again and not future.set_running_or_notify_cancel():
            return
        folder = span.group.folder
        try:
            array = self._array(span.group)
            folder = span.group.folder
            row = span.group.array().first_row + span.row
            source = array[row, span.first : span.first + span.count]
            # As it is stored, where old token stores lack an axis that `out` has.
            target = tensorstore.array(out.reshape(len(out), *span.group.array().spec.shape[2:]), copy=False)
            writing = target.write(source.translate_to[(0,) * target.rank])
        except BaseException as error:
            mapped = _mapped(error, span)
            if again and isinstance(mapped, DamagedError):
                self._begin_elsewhere(span, out, future, folder, mapped)
            else:
                future.set_exception(mapped)
            return

        def done(result: Any) -> None:
            error = result.exception()
            if error is None:
                future.set_result(None)
                return
            error = _mapped(error, span)
            if again and isinstance(error, DamagedError):
                # Not here, in a thread of tensorstore's, which must not wait for other reads.
                with contextlib.suppress(RuntimeError):  # it was closed
                    self._pool.submit(self._begin_elsewhere, span, out, future, folder, error)
                    return
            future.set_exception(error)

        writing.commit.add_done_callback(done)

    def _begin_elsewhere(
        self,
        span: Span,
        out: Shaped[np.ndarray, "frames *frame"],
        future: Future[None],
        folder: Location | None,
        error: BaseException,
    ) -> None:
        """Read a span again whose file is gone, if its group has moved into a pack."""
        try:
            moved = span.group.moved_from(folder)
        except DamagedError as reason:
            moved, error = False, reason
        if moved:
            self._begin(span, out, future, again=False)
        else:
            future.set_exception(error)

    def _array(self, group: GroupHandle) -> Any:
        import tensorstore

        array_file = group.array()  # checks the metadata
        place = array_file.folder
        with self._lock:
            if place.url in self._arrays:
                self._arrays.move_to_end(place.url)
                return self._arrays[place.url]
        spec = {
            "driver": "zarr3",
            "kvstore": place.tensorstore(),
            "metadata": array_file.spec.metadata(),
            "fill_missing_data_reads": False,
        }
        # The metadata was just checked; reading it again would wait for ever where the storage hangs.
        array = tensorstore.open(spec, open=True, read=True, assume_metadata=True, context=self._context).result(
            timeout=OPEN_TIMEOUT_SECONDS
        )
        with self._lock:
            self._arrays[place.url] = array
            if len(self._arrays) > OPEN_ARRAYS:
                self._arrays.popitem(last=False)
        return array


def _mapped(error: BaseException, span: Span) -> BaseException:
    """Return the program's own error for one of tensorstore's; its text names the file."""
    if isinstance(error, (DamagedError, StorageError)):
        return error
    last = span.first + span.count - 1
    where = f"{span.group.folder or span.group.root}: clip {span.group.keys[span.row]!r}, frames {span.first} to {last}"
    text = str(error).partition(" [")[0]  # then come source locations and the whole specification
    if isinstance(error, ValueError) and ("NOT_FOUND" in text or "DATA_LOSS" in text or "digest" in text.lower()):
        kind = "is missing" if "NOT_FOUND" in text else "does not match its checksum"
        return DamagedError(f"{where} {kind} ({text}); {span.group.remedy}")
    return StorageError(f"could not read {where}: {text or type(error).__name__}")
