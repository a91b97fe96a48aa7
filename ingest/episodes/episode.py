"""What an episode is: what one camera saw from a start to an end, a part of a file, with columns beside its frames.

A data set lists episodes as its sources; `video.cutting` cuts clips from them, and `video.columns` takes the columns
that they bring. The frames are those of a video file from a moment on (`VideoEpisode`), or an array of pictures
(`ArrayEpisode`). Another package's data set brings its own by a subclass of one of the two. Times are seconds since the
episode began, and frame and row 0 are its first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from deltactl.errors import SourceError
from deltactl.ingest.sources import Source
from deltactl.ingest.video.timestamps import Window

NEAR_FRAMES = 0.25
"""How far a frame may be from the time of its row, in steps from frame to frame."""


@dataclass(frozen=True)
class HeldColumns:
    """Columns that lie somewhere, of which those are read that are asked for."""

    place: str
    """The file, relative to the root."""
    names: tuple[str, ...]
    """What `--columns all` takes."""
    read: Callable[[Collection[str]], Mapping[str, Shaped[np.ndarray, "..."]]]
    """Takes names, returns the arrays of those that are there; raises SourceError, ValueError or OSError."""
    fragile: bool = False
    """Whether a damaged file may crash the process that reads it."""
    timed: bool = False
    """Whether an array `times` may tell the times of rows; else there is a row for each frame, and no more."""


@dataclass(frozen=True, slots=True)
class Episode(Source):
    """What one camera saw of one episode."""

    in_file: str
    """The file that holds its frames, relative to the root."""
    episode: str
    """Its name, which all cameras have in common."""
    camera: str

    @property
    def file(self) -> str:
        """The file that holds its frames."""
        return self.in_file

    @property
    def video(self) -> str:
        """The episode: all its cameras are held out together."""
        return self.episode

    @property
    def seen_by(self) -> str:
        """Its camera."""
        return self.camera

    @property
    def fragile(self) -> bool:
        """Whether a damaged file may crash the process that reads it; it is then read in one of its own."""
        return False

    @abstractmethod
    def columns(self, root: Path) -> HeldColumns:
        """Return its columns, rows in order, as many as frames.

        Raises:
            SourceError, ValueError, OSError: they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class VideoEpisode(Episode):
    """An episode in a video file: `frames` frames from `start` on, one each 1 / `fps` seconds."""

    start: float
    """Seconds of the file's clock."""
    frames: int
    fps: float

    @property
    def window(self) -> Window:
        """The part of the file, from half a step before its first frame on."""
        half = 0.5 / self.fps
        return Window(self.start - half, self.start + self.frames / self.fps - half)

    def own_times(self, times: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
        """Return the times of the frames in its window as seconds since its start.

        Raises:
            SourceError: they are not the frames that the data tell of.
        """
        own = times - self.start
        end = self.start + self.frames / self.fps
        where = f"{self.file} from {self.start:.6g} to {end:.6g} s"
        if len(own) != self.frames:
            raise SourceError(
                f"has {self.frames:,} rows of data, but {where} has {len(own):,} frames; as many were expected"
            )
        wanted = np.arange(self.frames) / self.fps
        if (far := np.flatnonzero(np.abs(own - wanted) > NEAR_FRAMES / self.fps)).size:
            row = int(far[0])
            raise SourceError(
                f"row {row} of its data is at {wanted[row]:.6g} s, but frame {row} of {where} at {own[row]:.6g} s"
            )
        return own


class Pictures(Protocol):
    """The frames of an array, opened."""

    times: Float[np.ndarray, " frame"]
    """Seconds since the first."""

    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return a frame as RGB; raises SourceError where it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayEpisode(Episode):
    """An episode whose frames are an array, and need no decoding."""

    @abstractmethod
    def open(self, root: Path) -> AbstractContextManager[Pictures]:
        """Open its frames.

        Raises:
            SourceError: they are not there, or no pictures.
        """

    @property
    @abstractmethod
    def reader(self) -> str:
        """The library that reads it, as clips tell their decoder."""
