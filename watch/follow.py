"""Follows a run until it ends, in the terminal or as a page that refreshes itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

from deltactl.errors import StorageError
from deltactl.locations import Location
from deltactl.watch.state import Moment, Watch

MOST_FAILURES = 5
"""Looks in a row that the storage may fail."""


def moments(watch: Watch, every_seconds: float, *, once: bool = False) -> Iterator[Moment]:
    """Yield the run as it is, again and again until nobody trains it any more; the last one is that of its end.

    Raises:
        ArtifactError, DamagedError: as `Watch.look`.
        StorageError: the storage failed several times in a row, or at the first look.
    """
    failures, seen = 0, False
    while True:
        try:
            moment = watch.look()
        except StorageError:
            failures += 1
            if once or not seen or failures == MOST_FAILURES:
                raise
        else:
            failures, seen = 0, True
            yield moment
            if once or not moment.is_running:
                return
        time.sleep(every_seconds)


def show(watch: Watch, every_seconds: float, *, once: bool = False) -> None:
    """Show a run on the terminal until it ends; once where it has ended, or where the output is no terminal.

    Raises what `moments` does.
    """
    from rich.console import Console, Group
    from rich.live import Live

    from deltactl.watch.terminal import view

    console = Console(soft_wrap=False)
    once = once or not console.is_terminal
    looks = moments(watch, every_seconds, once=once)
    moment = next(looks)
    if moment.is_running and not once:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            live.update(Group(*view(moment, console, rows=console.height - 1)), refresh=True)
            for moment in looks:
                live.update(Group(*view(moment, console, rows=console.height - 1)), refresh=True)
    console.print(*view(moment, console), sep="\n")


def write(watch: Watch, page: Location, every_seconds: float, *, once: bool = False) -> Moment:
    """Write a run's page anew until the run ends, and return how it was last; raises what `moments` does."""
    from deltactl.watch.page import Page

    drawn = Page(every_seconds)
    for moment in moments(watch, every_seconds, once=once):
        page.write_bytes(drawn.of(moment, refresh=moment.is_running and not once).encode())
    return moment
