"""One published group of a store, to read: its sealed metadata, its small arrays, and where its frames lie.

Nothing is read before it is asked for. Every file of metadata is checked against its hash on the first use: the group's
`zarr.json` against the store's index, the arrays' against the group's attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped

from deltactl.errors import DamagedError
from deltactl.featurize.layout import GROUP_FILE, Layout, group_name
from deltactl.locations import Location


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
    def attributes(self) -> Mapping[str, Any]:
        """The group's attributes; DamagedError where its `zarr.json` is not the one that the index knows."""
        data = self._checked(GROUP_FILE, self._sha256)
        attributes: Mapping[str, Any] = json.loads(data)["attributes"]
        return attributes

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
        """Return a whole small array: `times`, `crop`, `flip` or `valid`; DamagedError where it is damaged."""
        if name not in self._small:
            spec = self.layout.arrays(len(self.keys))[name]
            self._metadata(name)
            path = f"{name}/c/{'/'.join('0' * len(spec.shape))}" if spec.shape[0] else None
            data = self._read(path)[0] if path else b""
            if path and (len(data) < 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little")):
                raise DamagedError(f"{self.root / path} does not match its checksum; {self.remedy}")
            dtype = np.dtype(spec.dtype).newbyteorder("<")
            self._small[name] = np.frombuffer(data[:-4], dtype).reshape(spec.shape)
        return self._small[name]

    def _metadata(self, name: str) -> bytes:
        return self._checked(f"{name}/{GROUP_FILE}", self.attributes["files"].get(f"{name}/{GROUP_FILE}", ""))

    def _checked(self, path: str, sha256: str) -> bytes:
        data, place = self._read(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedError(f"{place} does not match its checksum; {self.remedy}")
        return data

    def _read(self, path: str) -> tuple[bytes, Location]:
        place = self.root / path
        try:
            return place.read_bytes(), place
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedError(f"{place} is missing; {self.remedy}") from error


@dataclass(frozen=True)
class Span:
    """A run of frames of one clip."""

    group: GroupHandle
    row: int
    first: int
    count: int
