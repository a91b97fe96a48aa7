"""Reads a run's `metrics.csv` while the training appends to it.

On a disk only what is new is read, up to the last line that is whole; where the file was written anew (another column,
a run that was gone on with) all of it. In an object store the file is written whole each time, and read whole when it
has changed. Lines come one after the other: memory does not grow with the file.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol, runtime_checkable

from deltactl.errors import DamagedError
from deltactl.locations import Location, damage_in_place_of, storage_errors

LONGEST_LINE = 1 << 20
"""In bytes."""


@runtime_checkable
class Rows(Protocol):
    """What takes the rows of the file."""

    def clear(self) -> None:
        """Forget the rows so far: the file begins anew."""

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Take a row."""


@dataclass
class _Seen:
    """How far the file was read, and how to tell that it is the same file still."""

    identity: tuple[int, int]
    offset: int
    last_line: bytes


class MetricsFile:
    """The file of one run; `read` gives on what is new since the last call."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self._seen: _Seen | None = None
        self._remote: tuple[float, int] | None = None
        self._columns: list[str] = []
        self.modified: float | None = None
        """When it was last written, in seconds since 1970; None before there is a file."""
        self.bad_rows = 0
        """Lines that are no rows: no step, or something that is no number."""

    def read(self, rows: Rows) -> None:
        """Read what is new; nothing happens where there is no file yet.

        Raises:
            DamagedError: it is no table of figures.
            StorageError: it cannot be read.
        """
        try:
            with damage_in_place_of(self._place), storage_errors(self._place, "read"):
                if self._place.is_local:
                    self._read_local(rows)
                else:
                    self._read_remote(rows)
        except (FileNotFoundError, NotADirectoryError):
            if self.modified is not None:
                self._begin(rows)
                self._seen = self._remote = self.modified = None

    def _read_local(self, rows: Rows) -> None:
        with self._place.open() as file:
            status = os.fstat(file.fileno())
            identity, seen = (status.st_dev, status.st_ino), self._seen
            if seen is None or seen.identity != identity or not _goes_on(file, seen, status.st_size):
                self._begin(rows)
                seen = self._seen = _Seen(identity, 0, b"")
            file.seek(seen.offset)
            for line in self._lines(file):
                seen.offset += len(line)
                seen.last_line = line
                self._take(line, rows)
            self.modified = status.st_mtime

    def _read_remote(self, rows: Rows) -> None:
        modified, size = self._place.modified(), self._place.size()
        if (modified, size) != self._remote:
            self._begin(rows)
            with self._place.open() as file:
                for line in self._lines(file):
                    self._take(line, rows)
            self._remote, self.modified = (modified, size), modified

    def _begin(self, rows: Rows) -> None:
        rows.clear()
        self._columns, self.bad_rows = [], 0

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the whole lines from where the file stands; a last one that is half written is left for later."""
        while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
            yield line
        if len(line) == LONGEST_LINE:
            raise DamagedError(f"{self._place} is damaged: expected lines of figures, found one of more than 1 MB")

    def _take(self, line: bytes, rows: Rows) -> None:
        try:
            cells = next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
        except (UnicodeDecodeError, csv.Error):
            cells = []
        if not self._columns:
            if "step" not in cells:
                raise DamagedError(
                    f"{self._place} is damaged: its first line is {line[:60]!r}, expected the names of columns, "
                    "step among them"
                )
            self._columns = cells
            return
        row = {name: cell for name, cell in zip(self._columns, cells, strict=False) if cell}
        step = row.pop("step", "")
        if not step.isdecimal() or len(step) > 18:
            self.bad_rows += 1
            return
        figures = {}
        for name, cell in row.items():
            try:
                figures[name] = float(cell)
            except ValueError:
                self.bad_rows += 1
                return
        rows.add(int(step), figures)


def _goes_on(file: IO[bytes], seen: _Seen, size: int) -> bool:
    """Whether the file still has the line that was read last where it was."""
    if size < seen.offset:
        return False
    file.seek(seen.offset - len(seen.last_line))
    return file.read(len(seen.last_line)) == seen.last_line
