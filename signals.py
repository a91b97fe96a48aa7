"""Signals that end a program from outside unwind it as Ctrl-C does, so that what it holds and has half written goes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from deltactl.errors import StoppedError

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Beside Ctrl-C: `kill` and schedulers, and a terminal that was closed."""


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Let what ends a program raise StoppedError in the main thread; what is handled or ignored already stays so."""
    taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is _stop:
                signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise StoppedError(number)
