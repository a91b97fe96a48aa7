"""Columns of the episodes of a LeRobot set of version 3: the rows of an episode in a parquet file of many.

    data/chunk-000/file-000.parquet     `episode_index`, `frame_index`, `timestamp`, and a column for each other feature

Only the columns that are asked for are read, of the row groups that hold the episode (the files' statistics tell
which). The last ones that were read are kept, since the episode that is cut next mostly lies in them, too.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deltactl.errors import MissingExtraError
from deltactl.ingest.episodes.episode import NEAR_FRAMES, HeldColumns, VideoEpisode
from deltactl.ingest.shards.columns import NUMBERS
from deltactl.reading import Limit, check_regular

EPISODE, FRAME, TIME = "episode_index", "frame_index", "timestamp"
TASK = "clip.task"
"""The text column of an episode's task."""
ROWS = Limit(256_000_000, "the rows that hold an episode")


def parquet() -> Any:
    """Return the module that reads parquet files.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from pyarrow import parquet as module
    except ImportError as error:
        raise MissingExtraError("PyArrow", "robotics", "--dataset lerobot") from error
    return module


@dataclass(frozen=True, slots=True)
class LeRobotEpisode(VideoEpisode):
    """An episode of a LeRobot set."""

    number: int
    """`episode_index`."""
    data: str
    """The parquet file that holds its rows, relative to the root."""
    task: str
    """Its task in words."""
    features: tuple[str, ...]
    """The columns of numbers that the set has."""

    def columns(self, root: Path) -> HeldColumns:
        """Return its columns, the task among them."""
        return HeldColumns(self.data, (TASK, *self.features), functools.partial(self._read, root / self.data))

    def _read(self, path: Path, names: Collection[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the columns of these names, as far as they are there.

        Raises:
            ValueError, OSError: they cannot be read, or are not those of the episode's frames.
        """
        found: dict[str, Shaped[np.ndarray, "..."]] = {TASK: np.array(self.task)} if TASK in names else {}
        numbers = set(names) & set(self.features)
        if not numbers:
            return found
        rows = episode_rows(path, self.number, tuple(sorted({EPISODE, FRAME, TIME} | numbers)))
        if len(rows[FRAME]) != self.frames:
            raise ValueError(
                f"episode {self.number} has {len(rows[FRAME]):,} rows, by meta/episodes it has {self.frames:,} frames"
            )
        if (other := np.flatnonzero(rows[FRAME] != np.arange(self.frames))).size:
            row = int(other[0])
            raise ValueError(
                f"{FRAME} of row {row} of episode {self.number} is {rows[FRAME][row]}; they must rise by 1"
            )
        late = np.abs(rows[TIME].astype(np.float64) - np.arange(self.frames) / self.fps)
        if (far := np.flatnonzero(~(late <= NEAR_FRAMES / self.fps))).size:
            row = int(far[0])
            raise ValueError(
                f"{TIME} of row {row} of episode {self.number} is {rows[TIME][row]:g}; at {self.fps:g} frames a second "
                f"{row / self.fps:g} was expected"
            )
        return found | {name: rows[name] for name in numbers}


@contextlib.contextmanager
def parquet_errors() -> Iterator[None]:
    """Turn whatever PyArrow raises at a damaged file into a ValueError that says so, or an OSError."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"it cannot be read as parquet: {' '.join(str(error).split())}") from error


def episode_rows(path: Path, number: int, names: tuple[str, ...]) -> dict[str, Shaped[np.ndarray, "row ..."]]:
    """Return columns of the rows of an episode in a parquet file, in its order; `names` holds `episode_index`.

    Raises:
        ValueError: the file is damaged, lacks a column, or one holds what is no number.
        OSError: it cannot be read.
    """
    check_regular(path)
    facts = path.stat()
    state = (str(path), facts.st_size, facts.st_mtime_ns)
    with parquet_errors():
        groups = [group for group, (low, high) in enumerate(_groups(state)) if low <= number <= high]
        parts = [_group(state, group, names) for group in groups]
    masks = [part[EPISODE] == number for part in parts]
    if not any(mask.any() for mask in masks):
        raise ValueError(f"it has no rows of episode {number}")
    return {
        name: np.concatenate([part[name][mask] for part, mask in zip(parts, masks, strict=True) if mask.any()])
        for name in names
    }


State = tuple[str, int, int]
"""A file's path, size and time of change: what is known of it holds as long as these do."""


@functools.lru_cache(maxsize=4)
def _groups(state: State) -> list[tuple[float, float]]:
    """Return the least and the largest episode of each row group, as far as the file tells."""
    metadata = parquet().read_metadata(state[0])
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        place = _columns_of(group).get(EPISODE)
        if place is None:
            raise ValueError(f"it has no column {EPISODE}")
        told = group.column(place[0]).statistics
        has = told is not None and told.has_min_max
        found.append((told.min, told.max) if has else (-math.inf, math.inf))
    return found


@functools.lru_cache(maxsize=1)
def _group(state: State, group: int, names: tuple[str, ...]) -> dict[str, Shaped[np.ndarray, "row ..."]]:
    """Return columns of a row group."""
    with parquet().ParquetFile(state[0]) as file:
        described = file.metadata.row_group(group)
        columns = _columns_of(described)
        if absent := [name for name in names if name not in columns]:
            raise ValueError(f"it has no column {absent[0]}")
        size = sum(described.column(each).total_uncompressed_size for name in names for each in columns[name])
        if size > ROWS.bytes:
            raise ValueError(f"row group {group} has {size:,} bytes, more than the {ROWS.bytes:,} {ROWS.may}")
        table = file.read_row_group(group, columns=list(names), use_threads=False)  # one process a core
        found = {name: numbers_of(name, table.column(name).combine_chunks()) for name in names}
    # Single numbers, which some writers keep as lists of one.
    return found | {name: found[name].ravel() for name in (EPISODE, FRAME, TIME) if name in found}


def _columns_of(group: Any) -> dict[str, list[int]]:
    """Return the places of the stored columns that make up each column of a row group."""
    found: dict[str, list[int]] = {}
    names = {group.column(place).path_in_schema: place for place in range(group.num_columns)}
    for path, place in names.items():
        # A list is stored as NAME.list.element; names may have dots themselves.
        name = path
        for end in (".list.element", ".list.item"):
            while name.endswith(end):
                name = name.removesuffix(end)
        found.setdefault(name, []).append(place)
    return found


def numbers_of(name: str, values: Any) -> Shaped[np.ndarray, "row ..."]:
    """Return an array of parquet, numbers or lists of numbers of one length, as NumPy's.

    Raises:
        ValueError: it holds nothing in a row, lists of several lengths, or something else than numbers.
    """
    import pyarrow

    kinds = pyarrow.types
    shape: list[int] = [len(values)]
    while True:
        if isinstance(values, pyarrow.ExtensionArray):
            values = values.storage
        if values.null_count:
            raise ValueError(f"{name} has nothing in {values.null_count:,} of its rows; a number was expected in each")
        if kinds.is_fixed_size_list(values.type):
            shape.append(values.type.list_size)
            values = values.flatten()
        elif kinds.is_list(values.type) or kinds.is_large_list(values.type):
            lengths = np.unique(np.diff(values.offsets.to_numpy()))
            if len(lengths) > 1:
                raise ValueError(
                    f"{name} has lists of {lengths[0]} and of {lengths[1]} numbers; one length was expected"
                )
            shape.append(int(lengths[0]) if len(lengths) else 0)
            values = values.flatten()
        else:
            break
    if str(values.type) not in NUMBERS and str(values.type) not in ("float", "double", "halffloat"):
        raise ValueError(f"{name} holds {values.type}; one of {', '.join(NUMBERS)} was expected")
    numbers = values.to_numpy(zero_copy_only=False)
    return np.asarray(numbers).reshape(shape)
