"""Divides the units of a stage among the processes that share it: each makes those that no living process is making.

    NAME/.claims/UNIT.unit      the token of the process that makes this unit (see `claims`)

Claims of units only save work: a unit that is made twice is published once. Costs one small file for each unit while it
is made.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from deltactl.claims import Claim, listed
from deltactl.errors import StorageError

log = logging.getLogger(__name__)

POLL_SECONDS = {True: 0.5, False: 10.0}
"""How often to look for units that others make, on a disk and in an object store."""

Unit = TypeVar("Unit")


class UnitClaims:
    """The units that one process makes; a context manager that lets go of those that it did not make."""

    def __init__(self, claim: Claim) -> None:
        """`claim` is this process's own; beside one that `claims.share` made, others may have theirs."""
        self._claim = claim
        self._root = claim.root
        self._mine: set[str] = set()
        self._living: tuple[float, set[str]] = (0.0, set())

    def __enter__(self) -> UnitClaims:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._mine):
            with contextlib.suppress(StorageError):
                self.done(name)

    def rounds(
        self,
        units: Iterable[Unit],
        *,
        name: Callable[[Unit], str],
        is_made: Callable[[Unit], bool],
        passed: Callable[[Unit], None],
    ) -> Iterator[Iterator[Unit]]:
        """Yield rounds of units to make, each as they are drawn; call `done` with a unit's name once it is made.

        The first round has all that nobody else is making, each later one what others have left. Ends when all are
        made, whoever did it; `passed` hears of those that others made.
        """
        if self._claim.mode == "alone":
            yield iter(units)
            return
        left, told = list(units), False
        while left:
            elsewhere: list[Unit] = []
            made: list[Unit] = []
            yield self._draw(left, name, is_made, made, elsewhere)
            for unit in made:
                passed(unit)
            if len(elsewhere) == len(left):
                if not told:
                    who = listed(self._claim.others())
                    log.info("%s: waiting for %d units that are made by %s", self._root, len(left), who)
                told = True
                time.sleep(POLL_SECONDS[self._root.is_local])
            left = elsewhere

    def done(self, name: str) -> None:
        """Say that a unit is published, or could not be made."""
        if name in self._mine:
            self._mine.remove(name)
            (self._claim.folder / f"{name}.unit").remove()

    def _draw(
        self,
        units: Iterable[Unit],
        name: Callable[[Unit], str],
        is_made: Callable[[Unit], bool],
        made: list[Unit],
        elsewhere: list[Unit],
    ) -> Iterator[Unit]:
        """Yield units once they are claimed, perhaps in another thread; sort out those of others."""
        for unit in units:
            if not self._take(name(unit)):
                elsewhere.append(unit)
            elif is_made(unit):
                self.done(name(unit))
                made.append(unit)
            else:
                yield unit

    def _take(self, name: str) -> bool:
        """Claim a unit; return whether it is this process's now."""
        place = self._claim.folder / f"{name}.unit"
        mine = self._claim.token.encode()
        if not place.create_bytes(mine):
            try:
                owner = place.read_bytes().decode(errors="replace")
            except FileNotFoundError:  # just made; the next round finds it
                return False
            if self._lives(owner):
                return False
            place.write_bytes(mine)
        self._mine.add(name)
        return True

    def _lives(self, token: str) -> bool:
        """Whether the process of a token is alive, or was a moment ago."""
        looked, living = self._living
        if token not in living or time.monotonic() - looked > POLL_SECONDS[self._root.is_local]:
            living = {each.token for each in self._claim.others()}
            self._living = time.monotonic(), living
        return token in living
