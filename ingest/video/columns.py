"""Reads columns from the file beside a video, as an episode brings them, or from a path; and chooses those of a clip.

    NAME.mp4, or a folder of frames NAME/       the video
    NAME.columns.npz                            `times` (F,), perhaps: seconds of the video's clock, rising;
                                                a column (F, …) for each other name; `clip.…`: of the whole video

Of a file beside a video, with `times` a frame has the row whose time is nearest to its own, else row i is that of frame
i in display order. One file is read once for all clips of its video. The file is somebody else's: nothing in it is run,
and what it claims to hold is not taken for what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.episodes.apart import Apart
from deltactl.ingest.episodes.episode import Episode, HeldColumns
from deltactl.ingest.shards.columns import (
    LARGEST_ROW,
    MOST_AXES,
    MOST_COLUMNS,
    MOST_ROW_BYTES,
    NAME,
    NUMBERS,
    SUFFIX,
    TEXT,
    Column,
    Columns,
    is_of_clip,
    type_of,
)
from deltactl.ingest.sources import Source
from deltactl.ingest.video.sampling import SampledClip, nearest_frames
from deltactl.ingest.video.sidecars import has_columns, held_columns, open_archive, sidecar_of
from deltactl.ingest.video.zips import ZipArchive
from deltactl.progress import few
from deltactl.reading import reason_of

TIMES = "times"
ALL, NONE = "all", "none"
PathTexts = Callable[[str], Mapping[str, str]]
"""Takes the path of a source, returns the texts that it tells, by the names of columns (`clip.…`)."""


@dataclass(frozen=True)
class ColumnsOfVideo:
    """The columns of a whole video."""

    values: Mapping[str, Shaped[np.ndarray, "..."]]
    times: Float[np.ndarray, " row"] | None

    def of(self, clip: SampledClip) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return those of a clip: a row for each of its frames, and what belongs to the whole video as it is."""
        rows = self._rows(clip)
        return {name: values if is_of_clip(name) else values[rows] for name, values in self.values.items()}

    def _rows(self, clip: SampledClip) -> Int[np.ndarray, " frame"]:
        if self.times is None:
            return np.array(clip.indices)
        return nearest_frames(self.times, np.array(clip.times))


@dataclass(frozen=True)
class ColumnReader:
    """Reads the columns of the sources of a set; goes to other processes."""

    root: Path
    columns: Columns
    path_texts: PathTexts | None = None

    def read(
        self, source: Source, frame_times: Float[np.ndarray, " frame"], archive: ZipArchive | None
    ) -> ColumnsOfVideo:
        """Return the columns of a video whose frames have these times, in seconds.

        `archive` is the zip that the source may lie in.

        Raises:
            SourceError: they are not there, not those of the set, not sound, or fewer than the video has frames.
        """
        texts = {} if self.path_texts is None else self.path_texts(source.name)
        derived = {column.name: np.array(texts[column.name]) for column in self.columns if column.name in texts}
        wanted = [column for column in self.columns if column.name not in derived]
        if not wanted:
            return ColumnsOfVideo(derived, None)
        name = source.file if isinstance(source, Episode) else sidecar_of(source).rpartition("/")[2]
        try:
            held = held_columns(self.root, source, archive)
            name = held.place if isinstance(source, Episode) else name
            values = dict(held.read({*({TIMES} if held.timed else ()), *(column.name for column in wanted)}))
            times = _checked_times(values.pop(TIMES, None), frame_times) if held.timed else None
            for column in wanted:
                _check(column, values.get(column.name))
                _check_rows(column, values[column.name], times, len(frame_times), exactly=not held.timed)
        except FileNotFoundError as error:
            names = few([column.name for column in wanted])
            raise SourceError(f"{name} is not there; it holds the columns {names}") from error
        except OSError as error:
            raise SourceError(f"{name} {reason_of(error)}") from error
        except (ValueError, SourceError) as error:
            raise SourceError(f"{name}: {error}") from error
        return ColumnsOfVideo({**values, **derived}, times)


def _checked_times(
    times: np.ndarray | None, frame_times: Float[np.ndarray, " frame"]
) -> Float[np.ndarray, " row"] | None:
    if times is None:
        return None
    if times.ndim != 1 or times.dtype.kind not in "iuf" or not len(times):
        raise ValueError(f"times is {type_of(times)} {times.shape}; seconds, one for each row, were expected")
    seconds = times.astype(np.float64)
    _check_finite(TIMES, seconds)
    if (falls := np.flatnonzero(np.diff(seconds) <= 0)).size:
        row = int(falls[0]) + 1
        raise ValueError(f"times[{row}] is {seconds[row]:g} after {seconds[row - 1]:g}; times must rise")
    # A row stands for what is nearest to it: no further away than rows are from each other.
    step = float(np.diff(seconds).max(initial=0.0)) if len(seconds) > 1 else math.inf
    first, last = float(frame_times[0]), float(frame_times[-1])
    if first < seconds[0] - step or last > seconds[-1] + step:
        raise ValueError(
            f"times go from {seconds[0]:g} to {seconds[-1]:g} s, the video from {first:g} to {last:g} s; columns must "
            "be as long as their video, and on its clock"
        )
    return seconds


def _check(column: Column, values: np.ndarray | None) -> None:
    if values is None:
        raise ValueError(f"it has no {column.name}, which the others have")
    if not column.of_clip and not values.ndim:
        raise ValueError(f"{column.name} is a single value; a row for each frame was expected")
    if fault := column.fault(values, 0 if column.of_clip else len(values)):
        raise ValueError(f"{fault}, as in the set's first")
    _check_finite(column.name, values)
    if column.is_text and (letters := values.dtype.itemsize // 4) > LARGEST_ROW:
        raise ValueError(f"{column.name} has {letters:,} letters; at most {LARGEST_ROW:,} are taken")


def _check_rows(column: Column, values: np.ndarray, times: np.ndarray | None, frames: int, *, exactly: bool) -> None:
    """Raise ValueError unless there is a row for each frame, and `exactly` one, or for each time."""
    if column.of_clip:
        return
    if times is not None and len(values) != len(times):
        raise ValueError(f"{column.name} has {len(values):,} rows, times has {len(times):,}; as many were expected")
    if times is None and (len(values) < frames or (exactly and len(values) > frames)):
        raise ValueError(
            f"{column.name} has {len(values):,} rows, its video {frames:,} frames; a row for each frame was expected"
            + ("" if exactly else ", or an array `times`")
        )


def _check_finite(name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        place = [int(number) for number in np.argwhere(~finite)[0]]
        raise ValueError(f"{name}{place} is {values[tuple(place)]}; finite numbers were expected")


# --- the columns of a set ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChosenColumns:
    """The columns of a set."""

    columns: Columns = ()
    in_files: frozenset[str] = frozenset()
    """Names of those that are read from files beside the sources."""


def columns_of(
    chosen: str, root: Path, sources: Sequence[Source], path_texts: PathTexts | None = None
) -> ChosenColumns:
    """Return the columns of a set that are `chosen` (`all`, or names between commas).

    Those that the paths of the sources do not tell are those of its first source: the first in order that can be read.

    Raises:
        ConfigError: there are none, or not these; or they are none.
    """
    names = None if chosen == ALL else sorted(set(chosen.split(",")))
    told = {} if path_texts is None else path_texts(sources[0].name)
    derived = [Column(name, TEXT, ()) for name in told if names is None or name in names]
    if names is not None and len(derived) == len(names):
        return ChosenColumns(_sorted(derived))
    with Apart() as apart:
        found = _first_held(root, sources, apart)
        if found is None and names is None and derived:
            return ChosenColumns(_sorted(derived))
        if found is None:
            raise ConfigError(
                f"--columns is {chosen}, but no source in {root} has columns that can be read; expected NAME.{SUFFIX} "
                "beside NAME.mp4 or the folder NAME"
            )
        place = root / found.place
        there = [name for name in sorted(found.names) if name != TIMES and name not in told]
        wanted = there if names is None else [name for name in names if name not in told]
        if len(wanted) > MOST_COLUMNS:
            raise ConfigError(f"{place} has {len(wanted):,} columns; at most {MOST_COLUMNS} can be taken, name some")
        try:
            read = apart.call(found.read, wanted) if found.fragile else found.read(wanted)
            if absent := [name for name in wanted if name not in read]:
                raise ConfigError(f"--columns names {few(absent)}, but {place} has {few(there) or 'no columns'}")
            columns = [*derived, *(_column(name, read[name]) for name in wanted)]
        except (ValueError, OSError, SourceError) as error:
            raise ConfigError(f"{place}: {error}; it says what columns the set has: mend it, or name others") from error
    for what, of_clip in (("frame", False), ("clip", True)):
        if (size := sum(each.bytes_of(1) for each in columns if each.of_clip == of_clip)) > MOST_ROW_BYTES:
            raise ConfigError(
                f"{place}: the columns of a {what} have {size:,} bytes together; at most {MOST_ROW_BYTES:,} are "
                "taken: name fewer with --columns"
            )
    return ChosenColumns(_sorted(columns), frozenset(wanted if found.timed else ()))


def _first_held(root: Path, sources: Sequence[Source], apart: Apart) -> HeldColumns | None:
    """Return the columns of the first source that has some that can be read."""
    archive = open_archive(root)
    with archive or nullcontext():
        for source in sources:
            if not has_columns(root, source):
                continue
            try:
                if isinstance(source, Episode) and source.fragile:
                    return apart.call(held_columns, root, source, None)
                return held_columns(root, source, archive)
            except (OSError, ValueError, SourceError):
                continue  # its source will be quarantined for it
    return None


def _sorted(columns: Sequence[Column]) -> Columns:
    return tuple(sorted(columns, key=lambda column: column.name))


def _column(name: str, values: np.ndarray) -> Column:
    """Return the column that an array is of; ValueError where there is none like it."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"the name {name!r} is no column's; letters, digits, '_', '.' and '-' were expected")
    if not is_of_clip(name) and not values.ndim:
        raise ValueError(f"{name} is a single value; a row for each frame was expected, or the name clip.{name}")
    column = Column(name, type_of(values), values.shape if is_of_clip(name) else values.shape[1:])
    if column.is_text and not column.of_clip:
        raise ValueError(f"{name} holds texts; frames may have {', '.join(NUMBERS)}, texts need a name with clip.")
    if math.prod(column.shape) > LARGEST_ROW:
        raise ValueError(f"a row of {name} has {math.prod(column.shape):,} numbers; at most {LARGEST_ROW:,} are taken")
    if len(column.shape) > MOST_AXES:
        raise ValueError(f"a row of {name} has {len(column.shape)} axes; at most {MOST_AXES} are taken")
    return column


def beside_note(count: int, sources: Sequence[Source]) -> str | None:
    """Return what to say of so many files of columns, or of episodes', that nobody asked for; None without any."""
    if any(isinstance(source, Episode) for source in sources):
        return "episodes bring columns (actions, states …); --columns all takes them, --columns A,B some"
    if not count:
        return None
    return f"columns lie beside sources ({count:,} × NAME.{SUFFIX}); --columns all takes them, --columns A,B some"
