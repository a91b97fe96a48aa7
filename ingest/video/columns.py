"""Reads the columns of a video from the file beside it, or as an episode brings them, and those of a clip's frames.

    NAME.mp4, or a folder of frames NAME/       the video
    NAME.columns.npz                            `times` (F,), perhaps: seconds of the video's clock, rising;
                                                a column (F, …) for each other name; `clip.…`: of the whole video

With `times` a frame has the row whose time is nearest to its own, else row i is that of frame i in display order. One
file is read once for all clips of its video. The file is somebody else's: nothing in it is run, and what it claims to
hold is not taken for what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.episodes.apart import Apart
from deltactl.ingest.episodes.episode import Episode, HeldColumns
from deltactl.ingest.shards.columns import (
    CLASS,
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
    decode_columns,
    is_of_clip,
    names_in,
    type_of,
)
from deltactl.ingest.sources import FrameFolder, Source, VideoFile, ZippedFolder
from deltactl.ingest.video.sampling import SampledClip, nearest_frames
from deltactl.progress import few
from deltactl.reading import Limit, leads_to_file, read_file, reason_of

TIMES = "times"
SIDECAR = Limit(256_000_000, "the columns of a video")
ALL = "all"


def sidecar_of(source: Source) -> str:
    """Return the file that holds a source's columns, relative to the root like the source."""
    folder, slash, name = source.name.rpartition("/")
    stem = name.rpartition(".")[0] if isinstance(source, VideoFile) else name
    return f"{folder}{slash}{stem}.{SUFFIX}"


def class_of(source: str) -> str:
    """Return the class folder of a video of Kinetics from its path."""
    return source.split("/")[-2] if "/" in source else ""


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


def read_columns(
    root: Path, source: Source, columns: Columns, frame_times: Float[np.ndarray, " frame"], *, named_class: bool
) -> ColumnsOfVideo:
    """Return the columns of a video whose frames have these times, in seconds.

    `named_class`: take `clip.class` from the name of the source.

    Raises:
        SourceError: they are not there, not those of the set, not sound, or fewer than the video has frames.
    """
    derived = {CLASS: np.array(class_of(source.name))} if named_class and _names(columns, CLASS) else {}
    wanted = [column for column in columns if column.name not in derived]
    if not wanted:
        return ColumnsOfVideo(derived, None)
    name = source.file if isinstance(source, Episode) else sidecar_of(source).rpartition("/")[2]
    try:
        held = _held(root, source)
        name = held.place if isinstance(source, Episode) else name
        values = dict(held.read({column.name for column in wanted} | ({TIMES} if held.timed else set())))
        times = _checked_times(values.pop(TIMES, None), frame_times) if held.timed else None
        for column in wanted:
            _check(column, values.get(column.name))
            _check_rows(column, values[column.name], times, len(frame_times), exactly=not held.timed)
    except FileNotFoundError as error:
        raise SourceError(f"{name} is not there; it holds the columns {few([each.name for each in wanted])}") from error
    except OSError as error:
        raise SourceError(f"{name} {reason_of(error)}") from error
    except (ValueError, SourceError) as error:
        raise SourceError(f"{name}: {error}") from error
    return ColumnsOfVideo({**values, **derived}, times)


def _held(root: Path, source: Source) -> HeldColumns:
    """Return what holds the columns of a source: itself, or the file beside it.

    Raises:
        SourceError, ValueError, OSError: there is none, or it cannot be read.
    """
    if isinstance(source, Episode):
        return source.columns(root)
    data = read_file(root / sidecar_of(source), SIDECAR)

    def read(names: Collection[str]) -> dict[str, np.ndarray]:
        return decode_columns(data, names, SIDECAR.bytes)

    return HeldColumns(sidecar_of(source), tuple(names_in(data)), read, timed=True)


def _names(columns: Columns, name: str) -> bool:
    return any(column.name == name for column in columns)


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


def columns_of(chosen: str, root: Path, sources: Iterable[Source], *, named_class: bool) -> Columns:
    """Return the columns of a set that are `chosen` (`all`, or names between commas): those of its first source.

    The first is the first in order whose file can be read. `named_class`: a source's name tells its class.

    Raises:
        ConfigError: there are none, or not these; or they are none.
    """
    names = None if chosen == ALL else sorted(set(chosen.split(",")))
    derived = [Column(CLASS, TEXT, ())] if named_class and (names is None or CLASS in names) else []
    if names is not None and names == [column.name for column in derived]:
        return tuple(derived)
    with Apart() as apart:
        found = _first_readable(root, sources, apart)
        if found is None and names is None and derived:
            return tuple(derived)
        if found is None:
            raise ConfigError(
                f"--columns is {chosen}, but no source in {root} has columns that can be read; expected NAME.{SUFFIX} "
                "beside NAME.mp4 or the folder NAME (not inside a zip)"
            )
        name = found.place
        there = [each for each in sorted(found.names) if each != TIMES and not (derived and each == CLASS)]
        wanted = there if names is None else [each for each in names if not (derived and each == CLASS)]
        if len(wanted) > MOST_COLUMNS:
            raise ConfigError(
                f"{root / name} has {len(wanted):,} columns; at most {MOST_COLUMNS} can be taken, name some"
            )
        try:
            values = apart.call(found.read, wanted) if found.fragile else found.read(wanted)
            if absent := [each for each in wanted if each not in values]:
                raise ConfigError(f"--columns names {few(absent)}, but {root / name} has {few(there) or 'no columns'}")
            columns = [*derived, *(_column(each, values[each]) for each in wanted)]
        except (ValueError, OSError, SourceError) as error:
            raise ConfigError(
                f"{root / name}: {error}; it says what columns the set has: mend it, or name others"
            ) from error
    for what, of_clip in (("frame", False), ("clip", True)):
        if (size := sum(each.bytes_of(1) for each in columns if each.of_clip == of_clip)) > MOST_ROW_BYTES:
            raise ConfigError(
                f"{root / name}: the columns of a {what} have {size:,} bytes together; at most {MOST_ROW_BYTES:,} are "
                "taken: name fewer with --columns"
            )
    return tuple(sorted(columns, key=lambda column: column.name))


def _first_readable(root: Path, sources: Iterable[Source], apart: Apart) -> HeldColumns | None:
    """Return the columns of the first source that has some that can be read."""
    for source in sources:
        beside = isinstance(source, VideoFile | FrameFolder) and leads_to_file(root / sidecar_of(source))
        if beside or isinstance(source, Episode):
            fragile = isinstance(source, Episode) and source.fragile
            try:
                return apart.call(_held, root, source) if fragile else _held(root, source)
            except (OSError, ValueError, SourceError):
                continue  # its source will be quarantined for it
    return None


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
    if not count or all(isinstance(source, ZippedFolder) for source in sources):
        return None
    return f"columns lie beside sources ({count:,} × NAME.{SUFFIX}); --columns all takes them, --columns A,B some"
