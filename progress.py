"""What long work shows: a progress bar with rate and time left, and a summary at the end.

On a terminal a rich bar, elsewhere a plain line every ten seconds, always on stderr. The summary says what was done,
skipped and quarantined, bytes, seconds, the rate, and which part set the pace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

LINE_EVERY_SECONDS = 10.0
NOTE_EVERY_SECONDS = 1.0


@dataclass
class Summary:
    """What a stage did; summaries of tasks add up."""

    unit: str = "clips"
    """What is counted, in the plural."""
    done: int = 0
    skipped: int = 0
    """Units found finished."""
    quarantined: int = 0
    bytes: int = 0
    """Bytes written."""
    seconds: float = 0.0
    """Wall-clock time of the stage."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds that each part of the pipeline was busy; parts overlap, so the largest sets the pace."""
    state: str = ""
    """What the whole artifact holds now, whichever call made it."""

    def add(
        self,
        *,
        done: int = 0,
        skipped: int = 0,
        quarantined: int = 0,
        bytes: int = 0,
        parts: Mapping[str, float] | None = None,
    ) -> None:
        """Count what one task did."""
        self.done += done
        self.skipped += skipped
        self.quarantined += quarantined
        self.bytes += bytes
        for part, seconds in (parts or {}).items():
            self.parts[part] = self.parts.get(part, 0.0) + seconds

    def lines(self) -> list[str]:
        """Return the summary for a terminal."""
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        lines = [
            f"{self.done:,} {self.unit} done, {self.skipped:,} skipped, {self.quarantined:,} quarantined",
            f"{format_bytes(self.bytes)} in {format_seconds(self.seconds)}, {rate:.3g} {self.unit}/s",
        ]
        if self.parts:
            slowest = max(self.parts, key=lambda part: self.parts[part])
            shares = ", ".join(f"{part} {format_seconds(seconds)}" for part, seconds in self.parts.items())
            lines.append(f"{slowest} set the pace ({shares})")
        if self.state:
            lines.append(self.state)
        return lines


class Progress:
    """A context manager that shows how far the work is; see the module docstring."""

    def __init__(
        self, total: int | None, *, unit: str = "clips", label: str = "", note: Callable[[], str] | None = None
    ) -> None:
        """`note` gives a few words more, such as a loss; it is asked whenever they are shown, about once a second."""
        self.total = total
        self._note = note
        self._noted = 0.0
        self.unit = unit
        self.label = label
        self.count = 0
        self._bar: Any = None
        self._started = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self.unit}  {{task.fields[rate]}}"),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, rate="", note="")
        return self

    def advance(self, count: int = 1) -> None:
        """Count work that is finished."""
        self.count += count
        now = time.monotonic()
        rate = self.count / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, advance=count, rate=f"{rate:.3g}/s")
            if self._note is not None and now - self._noted >= NOTE_EVERY_SECONDS:
                self._noted = now
                self._bar.update(self._task, note=self._note())
        elif now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            left = "" if self.total is None else f", {format_seconds((self.total - self.count) / rate)} left"
            of = "" if self.total is None else f" of {self.total:,}"
            note = "" if self._note is None else f", {self._note()}"
            print(
                f"{self.label}: {self.count:,}{of} {self.unit}, {rate:.3g}/s{left}{note}",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def format_bytes(count: float) -> str:
    """Return a size in decimal units, such as `1.7 TB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def format_seconds(seconds: float) -> str:
    """Return a duration, such as `3 h 12 min` or `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
