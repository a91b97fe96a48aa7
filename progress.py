"""What long work shows: a progress bar with rate and time left, a summary at the end, and numbers as people read them.

On a terminal a rich bar, elsewhere a plain line every ten seconds, always on stderr. The summary says what was done,
skipped and quarantined, bytes, seconds, the rate, and which part set the pace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

LINE_EVERY_SECONDS = 10.0
NOTE_EVERY_SECONDS = 1.0

Say = Callable[[str], None]
"""Takes a sentence for people as the work goes on."""


@dataclass
class Summary:
    """What a stage did; summaries of tasks add up."""

    unit: str = "clips"
    """What is counted, in the plural. A source is a video; a clip is cut from one; a crop is a clip under one view."""
    bad: str = ""
    """What is quarantined, where that is something else than what is counted, such as the sources of clips."""
    done: int = 0
    skipped: int = 0
    """Units found finished."""
    quarantined: int = 0
    bytes: int = 0
    """Bytes written."""
    seconds: float = 0.0
    """Wall-clock time of the stage."""
    began: float = field(default_factory=time.monotonic, repr=False, compare=False)
    """When the stage began, by the monotonic clock."""
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

    def _bad(self) -> str:
        return counted(self.quarantined, self.bad) if self.bad and self.quarantined else f"{self.quarantined:,}"

    def lines(self) -> list[str]:
        """Return the summary for a terminal."""
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        lines = [
            f"{counted(self.done, self.unit)} done, {self.skipped:,} skipped, {self._bad()} quarantined",
            f"{format_bytes(self.bytes)} in {format_seconds(self.seconds)}, {format_number(rate)} {self.unit}/s",
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
        self._task: Any = None
        self._started = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self.start()
        return self

    def start(self) -> None:
        """Show the bar, and count time from now; `stop` ends it."""
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

    def advance(self, count: int = 1) -> None:
        """Count work that is finished."""
        self.count += count
        now = time.monotonic()
        rate = self.count / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, advance=count, rate=f"{format_number(rate)}/s")
            if self._note is not None and now - self._noted >= NOTE_EVERY_SECONDS:
                self._noted = now
                self._bar.update(self._task, note=self._note())
        elif now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            left = (
                "" if self.total is None or not rate else f", {format_seconds((self.total - self.count) / rate)} left"
            )
            of = "" if self.total is None else f" of {self.total:,}"
            note = "" if self._note is None else f", {self._note()}"
            print(
                f"{self.label}: {self.count:,}{of} {self.unit}, {format_number(rate)}/s{left}{note}",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


# --- numbers as people read them -------------------------------------------------------------------------------------

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 365.25 * 86_400
"""In seconds."""


def format_number(value: float) -> str:
    """Return a number with three significant digits and no exponent, such as `1,100`, `12.3` or `0.0042`."""
    return f"{float(f'{value:.3g}'):,.12g}" if abs(value) >= 1e-4 or not value else f"{value:.3g}"


def format_hours(hours: float) -> str:
    """Return hours with three significant digits, and all of the whole ones, such as `12.3` or `1,234`."""
    return f"{hours:,.0f}" if hours >= 100 else format_number(hours)


def counted(number: float, things: str) -> str:
    """Return how many there are of what is named in the plural, such as `1 GPU`, `2 GPUs` or `1,200 clips`."""
    first, space, rest = things.partition(" ")
    if number == 1:
        ends = (("ies", "y"), ("ches", "ch"), ("s", ""))
        old, new = next((pair for pair in ends if first.endswith(pair[0])), ("", ""))
        first = first.removesuffix(old) + new
    return f"{number:,.12g} {first}{space}{rest}"


def few(names: Sequence[str], most: int = 4) -> str:
    """Return the first names of many, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def cut_short(text: str, most: int) -> str:
    """Return the beginning of a text, of at most so many characters, with … where more of it is left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def format_bytes(count: float) -> str:
    """Return a size in decimal units, such as `1.7 TB`."""
    size = float(f"{count:.3g}")  # rounded first, so that 999,900 bytes are 1 MB rather than 1,000 kB
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{format_number(size)} PB"


def format_seconds(seconds: float) -> str:
    """Return a duration in its two largest units at most, such as `4.2 s`, `3 h 12 min`, `13 days 4 h`, `325 years`."""
    if seconds < MINUTE:
        return f"{seconds:.3g} s"
    minutes, hours, days = round(seconds / MINUTE), round(seconds / HOUR), seconds / DAY
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if hours < 60 * 24:
        return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")
    return f"{days:,.0f} days" if days < 2 * 365 else f"{format_number(seconds / YEAR)} years"
