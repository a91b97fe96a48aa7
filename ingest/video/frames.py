"""Videos that come as a folder of frames, `frame_SECONDS.jpg`, the time after the underscore.

Takes a folder on a disk or inside a zip; returns the times of its frames in seconds, sorted, and the bytes of chosen
ones. Nothing is decoded here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deltactl.errors import SourceError
from deltactl.ingest.video.zips import DirectorySpan, ZipArchive
from deltactl.reading import PICTURE, read_file, reason_of

FRAME_NAME = re.compile(r"(?!\._).*_(\d+(?:\.\d+)?)\.(?:jpe?g|png)", re.IGNORECASE)


class FrameSequence:
    """The frames of one folder, in time order."""

    def __init__(self, names: Iterable[str], read: Callable[[str], bytes]) -> None:
        timed = sorted((float(match[1]), name) for name in names if (match := FRAME_NAME.fullmatch(name)))
        if not timed:
            raise SourceError("holds no frames; files named frame_SECONDS.jpg were expected")
        self.times: Float[np.ndarray, " frames"] = np.array([time for time, _ in timed])
        """Seconds, as the names tell them."""
        self.names = [name for _, name in timed]
        self._read = read
        if not math.isfinite(self.times[-1]):
            raise SourceError(f"the time in the name {self.names[-1]} is not a number of seconds")

    def read(self, number: int) -> bytes:
        """Return the bytes of a frame's file."""
        return self._read(self.names[number])


def open_frame_folder(folder: Path) -> FrameSequence:
    """Return the frames of a folder on a disk.

    Raises:
        SourceError: the folder cannot be read, or holds no frames.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 (three times as fast)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from error

    def read(name: str) -> bytes:
        return read_frame(folder / name)

    return FrameSequence(names, read)


def read_frame(path: Path) -> bytes:
    """Return the bytes of a frame's file.

    Raises:
        SourceError: it is no regular file, too large or unreadable; the message names it.
    """
    try:
        return read_file(path, PICTURE)
    except OSError as error:
        raise SourceError(f"frame {path.name} {reason_of(error)}") from error


def open_zipped_folder(archive: ZipArchive, spans: tuple[DirectorySpan, ...]) -> FrameSequence:
    """Return the frames of a folder inside a zip, read in place."""
    members = {member.name.rpartition("/")[2]: member for member in archive.members(spans)}
    return FrameSequence(members, lambda name: archive.read(members[name]))
