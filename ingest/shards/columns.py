"""Columns: what belongs to a frame or a clip and is no pixel, such as actions, states, camera, pose, texts.

Takes the bytes of an `.npz` file that somebody else made, or that a shard holds, and returns arrays of known types, or
says what is wrong with it; makes the same bytes of the same arrays, always. A column whose name begins with `clip.`
belongs to the whole clip, every other one has a row for each frame.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deltactl.fields import Fields

SUFFIX = "columns.npz"
"""Of the member of a clip in a shard, and of the file beside a video."""
OF_CLIP = "clip."
"""What the names of columns that belong to a whole clip begin with."""
TEXT = "text"
"""Type of texts, which have no fixed length."""
NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
LARGEST_ROW = 4096
"""Numbers of a row of a column, and letters of a text. What is larger is a picture or a file, and has another place."""
MOST_ROW_BYTES = 1 << 16
"""Of all columns of a frame, or of a clip, together: 130 MB in memory for a group of 256 clips of 8 frames."""
MOST_AXES = 8
MOST_COLUMNS = 256
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_STAMP = (1980, 1, 1, 0, 0, 0)
"""The time that every member of a zip has here: the earliest that a zip can tell."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError),
    *(SyntaxError, TypeError, KeyError),
)
"""What `zipfile` and NumPy raise at damaged bytes."""


@dataclass(frozen=True)
class Column:
    """What all clips of a set have of a column."""

    name: str
    dtype: str
    """One of `NUMBERS`, or `TEXT`."""
    shape: tuple[int, ...]
    """Of a frame's row; of a column of the clip, of its value."""

    @property
    def of_clip(self) -> bool:
        """Whether it belongs to the clip and not to each frame."""
        return is_of_clip(self.name)

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return self.dtype == TEXT

    def shape_of(self, frames: int) -> tuple[int, ...]:
        """Return the shape that it has in a clip of so many frames."""
        return self.shape if self.of_clip else (frames, *self.shape)

    def bytes_of(self, frames: int) -> int:
        """Return the bytes that its numbers have in such a clip; 0 for texts."""
        return 0 if self.is_text else math.prod(self.shape_of(frames)) * np.dtype(self.dtype).itemsize

    def fault(self, values: np.ndarray, frames: int) -> str | None:
        """Return how the values of a clip differ from the column; None where they do not."""
        found = type_of(values), values.shape
        wanted = self.dtype, self.shape_of(frames)
        return None if found == wanted else f"{self.name} is {_typed(*found)}; {_typed(*wanted)} was expected"

    def to_json(self) -> dict[str, Any]:
        """Return what `columns_from` reads."""
        return {"dtype": self.dtype, "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"{self.name} ({_typed(self.dtype, self.shape)}{'' if self.of_clip else ' a frame'})"


Columns = tuple[Column, ...]
"""The columns of a set, sorted by name."""


def is_of_clip(name: str) -> bool:
    """Return whether a column of this name belongs to the whole clip."""
    return name.startswith(OF_CLIP)


def columns_to_json(columns: Columns) -> dict[str, Any]:
    """Return what `columns_from` reads."""
    return {column.name: column.to_json() for column in columns}


def columns_from(value: Fields) -> Columns:
    """Return what `columns_to_json` wrote.

    Raises:
        DamagedError: it is something else.
    """
    found = []
    for name, entry in value.objects():
        dtype, shape = entry.text("dtype"), tuple(entry.integers("shape"))
        if dtype not in (*NUMBERS, TEXT) or (dtype == TEXT and not is_of_clip(name)):
            raise entry.wrong("dtype", dtype, f"one of {', '.join(NUMBERS)}, or {TEXT} for names with {OF_CLIP}")
        if NAME.fullmatch(name) is None or math.prod(shape) > LARGEST_ROW or len(shape) > MOST_AXES:
            raise entry.wrong("shape", list(shape), f"at most {LARGEST_ROW:,} numbers, and a plain name")
        found.append(Column(name, dtype, shape))
    return tuple(sorted(found, key=lambda column: column.name))


def columns_of_identity(values: Mapping[str, Any], place: object) -> Columns:
    """Return the columns that the identity of an artifact names; none where it names none."""
    return columns_from(Fields(values["columns"], str(place), "columns")) if "columns" in values else ()


def type_of(values: np.ndarray) -> str:
    """Return the type of an array as columns call it."""
    return TEXT if values.dtype.kind == "U" else values.dtype.name


def _typed(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype} {tuple(shape)}"


# --- bytes -----------------------------------------------------------------------------------------------------------


def encode_columns(values: Mapping[str, np.ndarray]) -> bytes:
    """Return an `.npz` file of arrays: members in order of their names, not compressed, of one fixed time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(values):
            member = io.BytesIO()
            array = np.asarray(values[name])
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _STAMP)
            info.create_system, info.external_attr = 3, 0o600 << 16  # whatever system this is
            archive.writestr(info, member.getvalue())
    return file.getvalue()


def names_in(data: bytes) -> list[str]:
    """Return the names of the arrays in an `.npz` file, in order.

    Raises:
        ValueError: it is none; says why.
    """
    return [name for name, _ in _members(io.BytesIO(data))[1]]


def checksums_in(file: io.BytesIO | io.BufferedReader, names: Collection[str]) -> list[tuple[str, int, int]]:
    """Return name, CRC-32 and bytes of those arrays of an open `.npz` file, as its directory has them, sorted.

    Raises:
        ValueError: it is none; says why.
    """
    return sorted((name, info.CRC, info.file_size) for name, info in _members(file)[1] if name in names)


def decode_columns(data: bytes, only: Collection[str] | None, most_bytes: int) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, all or those of these names, as far as it has them.

    `most_bytes` is what they may have together.

    Raises:
        ValueError: it is damaged, or an array is of a type that no column has; says which and why.
    """
    archive, members = _members(io.BytesIO(data))
    wanted = [(name, info) for name, info in members if only is None or name in only]
    if (total := sum(info.file_size for _, info in wanted)) > most_bytes:
        raise ValueError(f"its arrays have {total:,} bytes, more than the {most_bytes:,} that columns may have")
    found = {}
    for name, info in wanted:
        try:
            raw = archive.read(info)
        except _BROKEN as error:
            raise ValueError(f"{name} is damaged: {error}") from error
        found[name] = _array(name, raw)
    return found


def _members(file: io.BytesIO | io.BufferedReader) -> tuple[zipfile.ZipFile, list[tuple[str, zipfile.ZipInfo]]]:
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        raise ValueError(f"is no .npz file: {error}") from error
    members = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
    names = [name for name, _ in members]
    if len(set(names)) != len(names):
        raise ValueError("is no .npz file: two of its arrays have one name")
    return archive, members


def _array(name: str, raw: bytes) -> Shaped[np.ndarray, "..."]:
    """Return the array of an `.npy` file; nothing is made larger than its bytes, whatever its header claims."""
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its format is {version}; a plain array of 1.0 or 2.0 was expected")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except _BROKEN as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, which are not read; numbers were expected, or texts (numpy's U)")
    native = dtype.newbyteorder("<")
    if dtype.kind != "U" and native.name not in NUMBERS:
        raise ValueError(f"{name} is {dtype}; one of {', '.join(NUMBERS)} was expected, or texts (numpy's U)")
    body = raw[stream.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize or any(side < 0 for side in shape):
        raise ValueError(f"{name} is damaged: {len(body):,} bytes are not those of {dtype} {tuple(shape)}")
    if not dtype.itemsize:
        return np.zeros(shape, "<U1")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").astype(native)
    if dtype.kind == "U":
        letters = np.frombuffer(np.ascontiguousarray(array).tobytes(), "<u4")
        if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))).any():
            raise ValueError(f"{name} is damaged: it holds what is no Unicode")
    elif dtype.kind == "b" and np.frombuffer(body, np.uint8).max(initial=0) > 1:
        raise ValueError(f"{name} is damaged: it holds what is neither true nor false")
    return array


def checked_clip(values: Mapping[str, np.ndarray], columns: Columns, frames: int) -> str | None:
    """Return how the columns of a clip differ from those of its set; None where they do not."""
    names = [column.name for column in columns]
    if sorted(values) != names:
        return f"it has the columns {', '.join(sorted(values)) or 'none'}; {', '.join(names) or 'none'} were expected"
    return next((fault for column in columns if (fault := column.fault(values[column.name], frames))), None)


def of_steps(values: Mapping[str, np.ndarray], frames_per_step: int) -> Mapping[str, np.ndarray]:
    """Return the columns of a clip's steps: as with times, a step has what its last frame has."""
    if frames_per_step == 1:
        return values
    last = slice(frames_per_step - 1, None, frames_per_step)
    return {name: each if is_of_clip(name) else each[last] for name, each in values.items()}


# --- as rows of bytes ------------------------------------------------------------------------------------------------


def number_columns(columns: Iterable[Column]) -> Columns:
    """Return the columns that hold numbers."""
    return tuple(column for column in columns if not column.is_text)


def text_columns(columns: Iterable[Column]) -> Columns:
    """Return the columns that hold texts."""
    return tuple(column for column in columns if column.is_text)
