"""What is alive in one process only, such as threads or a lock: made when a process first asks, and anew in others.

Threads do not survive a fork, where a copy of their pool waits for them for ever, and cannot be pickled for a process
that is spawned. What holds them through a `PerProcess` can be handed to the worker processes of a `DataLoader`, started
in any way, after any use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


def is_forked() -> bool:
    """Whether this process was forked from one that had loaded this module; what it inherits of CUDA is dead."""
    return _forked


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


class PerProcess(Generic[Made]):
    """Holds what `make` returns for the process that asks; `make` is pickled where the holder is."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: tuple[int, Made] | None = None

    def get(self) -> Made:
        """Return it, made now where this process has none."""
        found = self.there()
        if found is None:
            found = self._make()
            self._made = os.getpid(), found
        return found

    def there(self) -> Made | None:
        """Return it where this process has made it."""
        return self._made[1] if self._made is not None and self._made[0] == os.getpid() else None

    def take(self) -> Made | None:
        """Return what this process has made, if anything, to be closed, and forget it."""
        found, self._made = self.there(), None
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": None}
