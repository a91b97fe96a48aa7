"""One published group of a store, to read: its small arrays, and where its frames lie, by itself or in a pack.

Nothing is read before it is asked for. Every file of metadata is checked against its hash on the first use: the group's
`zarr.json` against the store's index, the arrays' against the group's attributes; of a pack its seal, and the hash of
the group that it tells against the index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import google_crc32c
import numpy as np
from jaxtyping import Float32, Shaped

from deltactl.artifacts import unseal
from deltactl.errors import DamagedError
from deltactl.featurize.store.array_files import CHECKSUM_BYTES, checksum, chunk_bytes, index_bytes
from deltactl.featurize.store.carried import COLUMNS
from deltactl.featurize.store.layout import (
    BLACK,
    CLIPS,
    GROUP_FILE,
    SMALL,
    ArraySpec,
    Layout,
    black_spec,
    group_name,
)
from deltactl.featurize.store.packs import Packs, read_hashed, read_there, verify_command
from deltactl.fields import Fields
from deltactl.locations import Location
from deltactl.reading import parse_json

SHORT_TIMES = "float32"
"""Type of `times` in groups made before they were float64: 4 ms apart at 10 hours, 128 s at a Unix time."""


@dataclass(frozen=True)
class ArrayFile:
    """How the frames of a group lie in the files of an array."""

    folder: Location
    """Of the array."""
    spec: ArraySpec
    frames: int
    file_clips: int
    """Clips in a file."""
    chunk_frames: int
    frame_bytes: int
    first_row: int
    """Row of the array that is the group's first."""
    _files: dict[int, Location] = field(default_factory=dict, repr=False, compare=False)

    def file(self, row: int) -> Location:
        """Return the file that holds a clip of the group."""
        number = (self.first_row + row) // self.file_clips
        if (file := self._files.get(number)) is None:
            self._files[number] = file = self.folder / self.spec.file(number)
        return file

    def place(self, row: int) -> int:
        """Return which clip of its file a clip of the group is."""
        return (self.first_row + row) % self.file_clips

    def clips_in(self, row: int) -> int:
        """Return how many clips the file that holds a clip of the group has."""
        before = (self.first_row + row) // self.file_clips * self.file_clips
        return min(self.file_clips, self.spec.shape[0] - before)


@dataclass(frozen=True)
class Lies:
    """The folder that a group's arrays lie in."""

    folder: Location
    first_row: int
    """Row of the arrays that is the group's first."""
    rows: int
    """Rows of the arrays."""
    files: Mapping[str, str]
    """SHA-256 of the `zarr.json` of each array, by its path in the folder."""


class GroupHandle:
    """A group (one view of one shard) as the store's index describes it."""

    def __init__(
        self,
        store: Location,
        view: int,
        unit: str,
        keys: Sequence[str],
        layout: Layout,
        sha256: str,
        packs: Packs | None = None,
    ) -> None:
        """`packs` are those of the store, looked up once for all its groups."""
        self.store = store
        self.root = store / group_name(view, unit)
        """Where the group lies if it lies by itself."""
        self.view = view
        self.unit = unit
        self.keys = keys
        """Keys of the shard's clips, row by row."""
        self.layout = layout
        self._sha256 = sha256
        self._packs = packs or Packs(store)
        self._small: dict[str, np.ndarray] = {}
        self._found: Lies | None = None
        self._array: ArrayFile | None = None
        self._columns: ColumnsHandle | None = None

    @property
    def remedy(self) -> str:
        """What to do when the group is damaged."""
        return verify_command(self.store)

    @property
    def folder(self) -> Location | None:
        """The folder that the group was found in; None before it was looked for."""
        found = self._found
        return None if found is None else found.folder

    def lies(self) -> Lies:
        """Return where the group's arrays lie.

        Raises:
            DamagedError: neither the group's `zarr.json` nor a pack is the one that the index knows.
        """
        found = self._found
        if found is None:
            self._found = found = self._in_pack() or self._by_itself()
        return found

    def array(self) -> ArrayFile:
        """Return where the frames lie, after the array's metadata was checked."""
        array = self._array
        if array is None:
            self._array = array = self._find_array()
        return array

    def _find_array(self) -> ArrayFile:
        layout, lies = self.layout, self.lies()
        self._check_metadata(layout.kind)
        return ArrayFile(
            folder=lies.folder / layout.kind,
            spec=layout.arrays(lies.rows)[layout.kind],
            frames=layout.frames,
            file_clips=layout.file_clips(lies.rows),
            chunk_frames=layout.chunk_frames,
            frame_bytes=layout.frame_bytes,
            first_row=lies.first_row,
        )

    def columns(self) -> ColumnsHandle:
        """Return what reads the columns of the same group."""
        if self._columns is None:
            about = (self.store, self.view, self.unit, self.keys, self.layout, self._sha256, self._packs)
            self._columns = ColumnsHandle(*about)
        return self._columns

    def moved_from(self, folder: Location | None) -> bool:
        """Return whether the group lies elsewhere than in `folder`, where a file of it was not; look again if need be.

        Groups are put into packs, and packs into larger ones, while others read. None: it was not found at all.

        Raises:
            DamagedError: it is nowhere.
        """
        if not self.layout.packed:
            return False
        if (found := self._found) is None or found.folder == folder:
            self._packs.forget(self.view)
            self._found = self._array = None
        return self.lies().folder != folder

    def small(self, name: str) -> Shaped[np.ndarray, "clip *rest"]:
        """Return `times`, `crop`, `flip` or `valid` of each clip.

        Raises:
            DamagedError: it is damaged.
        """
        if name not in self._small:
            if self.layout.nested:
                self._small[name] = self._read_small(name)
            else:
                table = self.table()
                self._small = {each: self.layout.small_column(each, table) for each in SMALL}
        return self._small[name]

    def _read_small(self, name: str) -> Shaped[np.ndarray, "clip *rest"]:
        spec = self.layout.arrays(len(self.keys))[name]
        metadata = self._metadata(name)
        if name == "times" and self._data_type(name, metadata) == SHORT_TIMES:
            spec = replace(spec, dtype=SHORT_TIMES)
        return read_small(self.lies().folder / name, spec, self.remedy)

    def table(self) -> Shaped[np.ndarray, "clip column"]:
        """Return the group's rows of the array of clips; DamagedError where it is damaged."""
        folder = self.folder
        try:
            return self._read_table()
        except DamagedError:
            if not self.moved_from(folder):
                raise
            return self._read_table()

    def _read_table(self) -> Shaped[np.ndarray, "clip column"]:
        lies = self.lies()
        self._check_metadata(CLIPS)
        spec = self.layout.arrays(lies.rows)[CLIPS]
        return read_rows(lies.folder / CLIPS, spec, lies.first_row, len(self.keys), self.remedy)

    def _in_pack(self) -> Lies | None:
        """Return where the group lies in a pack; None where it is in none, or the pack holds it as it was before."""
        if not self.layout.packed:
            return None
        for pack in self._packs.holding(self.view, self.unit):
            member = pack.members[self.unit]
            if member.sha256 == self._sha256 and member.clips == len(self.keys) and pack.layout == self.layout:
                return Lies(pack.folder, member.first_row, pack.clips, pack.files)
        return None

    def _by_itself(self) -> Lies:
        place, remedy = self.root / GROUP_FILE, f"; {self.remedy}"
        attributes = unseal(read_hashed(place, self._sha256, self.remedy), place, remedy, inside="attributes")
        return Lies(self.root, 0, len(self.keys), attributes.text_map("files"))

    def _data_type(self, name: str, metadata: bytes) -> str:
        place, remedy = self.lies().folder / name / GROUP_FILE, f"; {self.remedy}"
        try:
            return Fields(parse_json(metadata), place, remedy=remedy).text("data_type")
        except ValueError as error:
            raise DamagedError(f"{place} is damaged: {error}{remedy}") from error

    def _check_metadata(self, name: str) -> None:
        """Check the metadata of an array, once for all groups of a pack."""
        place, checked = self.lies().folder / name, self._packs.checked
        if place.url not in checked:
            self._metadata(name)
            checked.add(place.url)

    def _metadata(self, name: str) -> bytes:
        path, lies = f"{name}/{GROUP_FILE}", self.lies()
        return read_hashed(lies.folder / path, lies.files.get(path), self.remedy)


class ColumnsHandle(GroupHandle):
    """A group whose frames are, for whoever reads spans, the bytes of what its clips carry: all of a clip's at once."""

    def _find_array(self) -> ArrayFile:
        layout, lies = self.layout, self.lies()
        self._check_metadata(COLUMNS)
        return ArrayFile(
            folder=lies.folder / COLUMNS,
            spec=layout.arrays(lies.rows)[COLUMNS],
            frames=layout.carried_bytes,
            file_clips=max(lies.rows, 1),
            chunk_frames=layout.carried_bytes,
            frame_bytes=1,
            first_row=lies.first_row,
        )

    def span(self, row: int) -> Span:
        """Return what is to be read of a clip."""
        return Span(self, row, 0, self.layout.carried_bytes)


class BlackFrame:
    """The features of an all-zero frame, which stand once in a feature store."""

    def __init__(self, store: Location, sha256: str | None, frame_shape: Sequence[int]) -> None:
        self.root = store / BLACK
        self.remedy = verify_command(store)
        self._sha256 = sha256
        self._spec = black_spec(*frame_shape)

    def read(self) -> Float32[np.ndarray, "patch dim"]:
        """Return them.

        Raises:
            DamagedError: a byte is not as it was written.
        """
        read_hashed(self.root / GROUP_FILE, self._sha256, self.remedy)
        return read_small(self.root, self._spec, self.remedy)


def read_small(array: Location, spec: ArraySpec, remedy: str) -> Shaped[np.ndarray, "*shape"]:
    """Return an array that is one chunk, in a file of its own that ends in its CRC-32C."""
    if not spec.shape[0]:
        return np.empty(spec.shape, spec.dtype)
    place = array / spec.file(0)
    data = read_there(place, remedy)
    if len(data) < 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise DamagedError(f"{place} does not match its checksum; {remedy}")
    if len(data) - 4 != math.prod(spec.shape) * np.dtype(spec.dtype).itemsize:
        raise DamagedError(f"{place} has {len(data)} bytes, which are not those of {spec.shape} {spec.dtype}; {remedy}")
    return np.frombuffer(data[:-4], np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)


def read_rows(
    array: Location, spec: ArraySpec, first: int, count: int, remedy: str
) -> Shaped[np.ndarray, "row column"]:
    """Return some rows of a table that is one Zarr shard; of it no more is read than their chunks, and the index.

    Raises:
        DamagedError: it is not as `array_files` wrote it.
    """
    if not count:
        return np.empty((0, *spec.shape[1:]), spec.dtype)
    assert spec.inner is not None, "a Zarr shard"
    place, rows = array / spec.file(0), spec.inner[0]
    chunks = slice(first // rows, -(-(first + count) // rows))
    stored, end = chunk_bytes(spec) + CHECKSUM_BYTES, index_bytes(spec, spec.chunk[0])
    try:
        index = place.read_range(-len(end))
        data = place.read_range(chunks.start * stored, chunks.stop * stored)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{place} is missing; {remedy}") from error
    except IsADirectoryError as error:
        raise DamagedError(f"{place} is damaged: it is a folder; {remedy}") from error
    pieces = [data[start : start + stored] for start in range(0, len(data), stored)]
    sound = all(checksum(piece[:-CHECKSUM_BYTES]) == piece[-CHECKSUM_BYTES:] for piece in pieces)
    if index != end or len(data) != (chunks.stop - chunks.start) * stored or not sound:
        raise DamagedError(f"{place} does not match its checksum; {remedy}")
    content = b"".join(piece[:-CHECKSUM_BYTES] for piece in pieces)
    table = np.frombuffer(content, np.dtype(spec.dtype).newbyteorder("<")).reshape(-1, *spec.shape[1:])
    return table[first - chunks.start * rows :][:count]


@dataclass(frozen=True)
class Span:
    """A run of frames of one clip."""

    group: GroupHandle
    row: int
    first: int
    count: int
