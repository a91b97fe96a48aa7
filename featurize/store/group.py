"""One published group of a store, to read: its sealed metadata, its small arrays, and where its frames lie.

Nothing is read before it is asked for. Every file of metadata is checked against its hash on the first use: the group's
`zarr.json` against the store's index, the arrays' against the group's attributes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import google_crc32c
import numpy as np
from jaxtyping import Float32, Shaped

from deltactl.artifacts import unseal
from deltactl.errors import DamagedError
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, ArraySpec, Layout, black_spec, group_name
from deltactl.fields import Fields
from deltactl.locations import Location
from deltactl.reading import parse_json

SHORT_TIMES = "float32"
"""Type of `times` in groups made before they were float64: 4 ms apart at 10 hours, 128 s at a Unix time."""


@dataclass(frozen=True)
class ArrayFile:
    """How an array of frames lies in its files."""

    name: str
    frames: int
    shard_clips: int
    chunk_frames: int
    frame_bytes: int
    file_suffix: str
    """What follows the shard's number in the name of its file, such as `/0/0/0`."""

    def shard_name(self, row: int) -> str:
        """Return the path, within the group, of the file that holds a clip."""
        return f"{self.name}/c/{row // self.shard_clips}{self.file_suffix}"


class GroupHandle:
    """A group (one view of one shard) as the store's index describes it."""

    def __init__(self, store: Location, view: int, unit: str, keys: Sequence[str], layout: Layout, sha256: str) -> None:
        self.store = store
        self.root = store / group_name(view, unit)
        self.view = view
        self.unit = unit
        self.keys = keys
        """Keys of the shard's clips, row by row."""
        self.layout = layout
        self._sha256 = sha256
        self._small: dict[str, np.ndarray] = {}

    @property
    def remedy(self) -> str:
        """What to do when the group is damaged."""
        return f"run: deltactl verify {self.store} --repair"

    @cached_property
    def attributes(self) -> Fields:
        """The group's attributes.

        Raises:
            DamagedError: its `zarr.json` is not the one that the index knows.
        """
        place, remedy = self.root / GROUP_FILE, f"; {self.remedy}"
        return unseal(read_hashed(place, self._sha256, self.remedy), place, remedy, inside="attributes")

    def array(self) -> ArrayFile:
        """Return where the frames lie, after the array's metadata was checked."""
        return self._array

    @cached_property
    def _array(self) -> ArrayFile:
        layout = self.layout
        self._metadata(layout.kind)
        return ArrayFile(
            name=layout.kind,
            frames=layout.frames,
            shard_clips=layout.shard_clips(len(self.keys)),
            chunk_frames=layout.chunk_frames,
            frame_bytes=layout.frame_bytes,
            file_suffix="/0" * (1 + len(layout.frame_shape)),
        )

    def small(self, name: str) -> Shaped[np.ndarray, "clip *rest"]:
        """Return a whole small array: `times`, `crop`, `flip` or `valid`.

        Raises:
            DamagedError: it is damaged.
        """
        if name not in self._small:
            spec = self.layout.arrays(len(self.keys))[name]
            metadata = self._metadata(name)
            if name == "times" and self._data_type(name, metadata) == SHORT_TIMES:
                spec = replace(spec, dtype=SHORT_TIMES)
            self._small[name] = read_small(self.root / name, spec, self.remedy)
        return self._small[name]

    def _data_type(self, name: str, metadata: bytes) -> str:
        place, remedy = self.root / name / GROUP_FILE, f"; {self.remedy}"
        try:
            return Fields(parse_json(metadata), place, remedy=remedy).text("data_type")
        except ValueError as error:
            raise DamagedError(f"{place} is damaged: {error}{remedy}") from error

    def _metadata(self, name: str) -> bytes:
        path = f"{name}/{GROUP_FILE}"
        return read_hashed(self.root / path, self.attributes.nested("files").text(path), self.remedy)


class BlackFrame:
    """The features of an all-zero frame, which stand once in a feature store."""

    def __init__(self, store: Location, sha256: str | None, frame_shape: Sequence[int]) -> None:
        self.root = store / BLACK
        self.remedy = f"run: deltactl verify {store} --repair"
        self._sha256 = sha256
        self._spec = black_spec(*frame_shape)

    def read(self) -> Float32[np.ndarray, "patch dim"]:
        """Return them.

        Raises:
            DamagedError: a byte is not as it was written.
        """
        read_hashed(self.root / GROUP_FILE, self._sha256, self.remedy)
        return read_small(self.root, self._spec, self.remedy)


def read_hashed(place: Location, sha256: str | None, remedy: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        DamagedError: they are gone or their SHA-256 is another one.
    """
    data = _read(place, remedy)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(f"{place} does not match its checksum; {remedy}")
    return data


def read_small(array: Location, spec: ArraySpec, remedy: str) -> Shaped[np.ndarray, "*shape"]:
    """Return an array that is one chunk, in a file of its own that ends in its CRC-32C."""
    if not spec.shape[0]:
        return np.empty(spec.shape, spec.dtype)
    place = array / f"c/{'/'.join('0' * len(spec.shape))}"
    data = _read(place, remedy)
    if len(data) < 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise DamagedError(f"{place} does not match its checksum; {remedy}")
    if len(data) - 4 != math.prod(spec.shape) * np.dtype(spec.dtype).itemsize:
        raise DamagedError(f"{place} has {len(data)} bytes, which are not those of {spec.shape} {spec.dtype}; {remedy}")
    return np.frombuffer(data[:-4], np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)


def _read(place: Location, remedy: str) -> bytes:
    try:
        return place.read_whole(f"; {remedy}")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{place} is missing; {remedy}") from error


@dataclass(frozen=True)
class Span:
    """A run of frames of one clip."""

    group: GroupHandle
    row: int
    first: int
    count: int
