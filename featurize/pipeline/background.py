"""Work that is under way while something else is done: begun ahead of its use, or in a thread of its own.

`read_ahead(begun, count)` keeps a few pieces of work under way that were begun elsewhere, such as reads and copies.
`Background(items)` draws from an iterator in a thread and hands the items on; an exception of the iterator is raised at
the consumer. The queue holds so many items and, where a size is given for them, so many bytes. It knows how long its
stage was busy, waiting for its own input and for room in the queue left out, so that a pipeline can say which stage
sets its pace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

CHECK_SECONDS = 0.1


def read_ahead(begun: Iterable[Callable[[], Item]], count: int) -> Iterator[Item]:
    """Yield the results of work in order, `count` pieces of it under way while the caller uses one.

    Drawing from `begun` begins a piece; what it yields waits for the piece's end and returns the result.
    """
    waiting: deque[Callable[[], Item]] = deque()
    for wait in begun:
        waiting.append(wait)
        if len(waiting) > count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


class Background(Generic[Item]):
    """An iterator whose items are made ahead of time, in a thread; a context manager that ends the thread."""

    def __init__(
        self,
        items: Iterator[Item],
        *,
        depth: int,
        name: str,
        upstream: Background[Any] | None = None,
        size: Callable[[Item], int] | None = None,
        most_bytes: int = 0,
    ) -> None:
        """`depth`: items that may wait in the queue; `size`: bytes of an item, of which at most `most_bytes` wait.

        An item that is larger by itself waits alone.
        """
        self._items = items
        self._upstream = upstream
        self._queue: queue.Queue[tuple[str, Any, int]] = queue.Queue(depth)
        self._size = size
        self._most_bytes = most_bytes
        self._waiting_bytes = 0
        self._room = threading.Condition()
        self._stop = threading.Event()
        self._over = False
        self._spent_seconds = 0.0
        self.waited_seconds = 0.0
        """How long the consumer waited for items."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def busy_seconds(self) -> float:
        """How long this stage worked, without the time it waited for the stage before it."""
        return self._spent_seconds - (self._upstream.waited_seconds if self._upstream else 0.0)

    def __enter__(self) -> Background[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Tell this stage and those before it to end; one that waits for its input would not hear it otherwise."""
        self._stop.set()
        if self._upstream is not None:
            self._upstream.stop()

    def __iter__(self) -> Background[Item]:
        return self

    def __next__(self) -> Item:
        if self._over:
            raise StopIteration
        started = time.perf_counter()
        while True:
            try:
                kind, value, size = self._queue.get(timeout=CHECK_SECONDS)
                break
            except queue.Empty:
                if self._stop.is_set():
                    # The pipeline is being taken down from its end; nobody uses what would come.
                    raise StopIteration from None
        self.waited_seconds += time.perf_counter() - started
        if size:
            with self._room:
                self._waiting_bytes -= size
                self._room.notify()
        if kind == "item":
            item: Item = value
            return item
        self._over = True
        if kind == "error":
            raise value
        raise StopIteration

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                started = time.perf_counter()
                try:
                    item = next(self._items)
                except StopIteration:
                    self._put("end", None)
                    return
                finally:
                    self._spent_seconds += time.perf_counter() - started
                self._put("item", item, 0 if self._size is None else self._size(item))
        except BaseException as error:
            self._put("error", error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()

    def _put(self, kind: str, value: Any, size: int = 0) -> None:
        if size:
            with self._room:
                while self._waiting_bytes and self._waiting_bytes + size > self._most_bytes:
                    self._room.wait(CHECK_SECONDS)
                    if self._stop.is_set():
                        return
                self._waiting_bytes += size
        while not self._stop.is_set():
            try:
                self._queue.put((kind, value, size), timeout=CHECK_SECONDS)
                return
            except queue.Full:
                continue
