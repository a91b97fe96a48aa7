"""Episodes in HDF5 files as robomimic and LIBERO lay them out: pictures and columns of a demonstration, read in place.

    data/DEMO/obs/CAMERA     uint8 (T, H, W, 3): pictures
    data/DEMO/actions        (T, …): a column; `obs/NAME` is the column `obs.NAME`
    data                     attributes: `env_args` tells the rate, `problem_info` or the demonstration's `ep_meta` the
                             task, `macros_image_convention` whether rows of pictures go from the bottom up (`opengl`)

Pictures are read one by one, and columns as they are asked for. Links that lead elsewhere, data in other files and
objects are not touched.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.errors import MissingExtraError, SourceError
from deltactl.ingest.episodes.episode import ArrayEpisode, HeldColumns
from deltactl.ingest.shards.columns import LARGEST_ROW, NUMBERS
from deltactl.ingest.shards.images import MAX_PIXELS
from deltactl.reading import Limit, UnreadableError, check_regular, parse_json, reason_of

DATA, OBSERVATIONS = "data", "obs"
TASK = "clip.task"
COLUMN = Limit(256_000_000, "a column")
BROKEN = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, UnicodeError, MemoryError)
"""What h5py raises at damaged files."""


def h5py() -> Any:
    """Return the module that reads HDF5 files.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import h5py as module
    except ImportError as error:
        raise MissingExtraError("h5py", "robotics", "--dataset hdf5") from error
    return module


@contextlib.contextmanager
def hdf5_errors() -> Iterator[None]:
    """Turn whatever h5py raises at a damaged file into a `SourceError`."""
    try:
        yield
    except BROKEN as error:
        plain = isinstance(error, UnreadableError | FileNotFoundError | PermissionError | IsADirectoryError)
        reason = reason_of(error) if isinstance(error, OSError) and plain else f"cannot be read as HDF5: {error}"
        raise SourceError(" ".join(reason.split())) from error


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises:
        SourceError: it is none.
    """
    module = h5py()
    with hdf5_errors():
        check_regular(path)
        file = module.File(path, "r", locking="best-effort")
    with file:
        yield file


def child(group: Any, name: str, kind: str) -> Any:
    """Return what lies in a group under a name, a `Group` or a `Dataset`; None where nothing of the kind does.

    Links to other files, data that lie in others, and links within the file do not count.
    """
    module = h5py()
    if "/" in name:  # a path, which may lead through such links
        return None
    link = group.get(name, getlink=True) if name in group.keys() else None  # noqa: SIM118 (`in` follows links)
    if not isinstance(link, module.HardLink):
        return None
    found = group[name]
    if not isinstance(found, getattr(module, kind)):
        return None
    elsewhere = isinstance(found, module.Dataset) and (found.is_virtual or bool(found.external))
    return None if elsewhere else found


def is_camera(found: Any) -> bool:
    """Return whether a dataset holds pictures: uint8 (T, H, W, 3)."""
    return bool(found.ndim == 4 and found.shape[3] == 3 and found.dtype == np.uint8)


def text_attribute(found: Any, name: str) -> dict[str, Any]:
    """Return the JSON object in an attribute; an empty one where there is none."""
    value = found.attrs.get(name)
    if not isinstance(value, str | bytes):
        return {}
    try:
        parsed = parse_json(value)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


@dataclass(frozen=True, slots=True)
class Hdf5Episode(ArrayEpisode):
    """One camera of a demonstration."""

    demo: str
    """Its name in the group `data`."""
    fps: float
    upside_down: bool
    """Whether rows of its pictures go from the bottom up."""
    task: str
    """Its task in words, of the file; a demonstration may have its own."""

    @property
    def reader(self) -> str:
        """The library."""
        return "h5py"

    @property
    def fragile(self) -> bool:
        """HDF5's library crashes at some damaged files."""
        return True

    @contextlib.contextmanager
    def open(self, root: Path) -> Iterator[_Pictures]:
        """Open its pictures.

        Raises:
            SourceError: they are not there, or no pictures.
        """
        with open_file(root / self.file) as file:
            with hdf5_errors():
                pictures = _Pictures(self._found(file), self.fps, self.upside_down)
            yield pictures

    def _found(self, file: Any) -> Any:
        where = f"{DATA}/{self.demo}/{OBSERVATIONS}/{self.camera}"
        found = child(self._observations(file), self.camera, "Dataset")
        if found is None or not is_camera(found):
            what = "is not there" if found is None else f"is {found.dtype} {found.shape}"
            raise SourceError(f"{where} {what}; uint8 (T, H, W, 3) was expected")
        if found.shape[1] * found.shape[2] > MAX_PIXELS:
            raise SourceError(f"{where} has pictures of {found.shape[1]} × {found.shape[2]} pixels, too many to read")
        return found

    def columns(self, root: Path) -> HeldColumns:
        """Return its columns: those of numbers that have a row for each of its frames, and its task."""
        with open_file(root / self.file) as file, hdf5_errors():
            frames = child(self._observations(file), self.camera, "Dataset")
            rows = -1 if frames is None or not frames.ndim else frames.shape[0]
            names = tuple(
                name
                for name, found in datasets_of(self._demo(file))
                if found.dtype.name in NUMBERS
                and found.ndim
                and found.shape[0] == rows
                and not is_camera(found)
                and math.prod(found.shape[1:]) <= LARGEST_ROW
            )
            told = (TASK,) if self._task(file) else ()
        return HeldColumns(self.file, (*told, *names), functools.partial(self._read, root), fragile=True)

    def _read(self, root: Path, names: Collection[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the columns of these names, as far as they are there.

        Raises:
            SourceError: one holds something else than numbers, or cannot be read.
        """
        with open_file(root / self.file) as file, hdf5_errors():
            there = dict(datasets_of(self._demo(file)))
            found = {name: values_of(name, there[name]) for name in names if name in there}
            if TASK in names and (task := self._task(file)):
                found[TASK] = np.array(task)
            return found

    def _demo(self, file: Any) -> Any:
        data = child(file, DATA, "Group")
        demo = None if data is None else child(data, self.demo, "Group")
        if demo is None:
            raise SourceError(f"{self.file} has no group {DATA}/{self.demo}")
        return demo

    def _observations(self, file: Any) -> Any:
        found = child(self._demo(file), OBSERVATIONS, "Group")
        if found is None:
            raise SourceError(f"{self.file} has no group {DATA}/{self.demo}/{OBSERVATIONS}")
        return found

    def _task(self, file: Any) -> str:
        own = text_attribute(self._demo(file), "ep_meta").get("lang")
        return own if isinstance(own, str) and own else self.task


def datasets_of(demo: Any) -> Iterator[tuple[str, Any]]:
    """Yield the datasets of a demonstration and of its groups, with the names that they have as columns."""
    for name in sorted(demo.keys()):
        if (found := child(demo, name, "Dataset")) is not None:
            yield name, found
        elif (group := child(demo, name, "Group")) is not None:
            for inner in sorted(group.keys()):
                if (found := child(group, inner, "Dataset")) is not None:
                    yield f"{name}.{inner}", found


def values_of(name: str, found: Any) -> Shaped[np.ndarray, "..."]:
    """Return a dataset as an array.

    Raises:
        SourceError: it holds something else than numbers, or too many.
    """
    if found.dtype.name not in NUMBERS:
        raise SourceError(f"{name} holds {found.dtype}; one of {', '.join(NUMBERS)} was expected")
    if (size := math.prod(found.shape) * found.dtype.itemsize) > COLUMN.bytes:
        raise SourceError(f"{name} has {size:,} bytes, more than the {COLUMN.bytes:,} {COLUMN.may}")
    values = np.asarray(found[()])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


class _Pictures:
    """The pictures of an open episode."""

    def __init__(self, found: Any, fps: float, upside_down: bool) -> None:
        self.times = np.arange(found.shape[0]) / fps
        self._read: Callable[[int], Any] = found.__getitem__
        self._upside_down = upside_down

    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return a picture, the right way up."""
        try:
            picture = np.asarray(self._read(number))
        except BROKEN as error:
            raise SourceError(f"frame {number} cannot be read: {' '.join(str(error).split())}") from error
        return np.ascontiguousarray(picture[::-1] if self._upside_down else picture)
