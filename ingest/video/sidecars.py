"""The files that hold the columns of sources: whose is which, its bytes, and the mark by which a changed one is known.

    NAME.mp4, or a folder of frames NAME/       NAME.columns.npz beside it; for a folder inside a zip, beside it in
                                                the zip

The mark of a file is made of the checksums that its directory has of the arrays that are taken: whatever else is in it,
or how it was packed, does not matter. It costs one look at the end of each file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from deltactl.errors import SourceError
from deltactl.ingest.episodes.episode import Episode, HeldColumns
from deltactl.ingest.shards.columns import SUFFIX, checksums_in, decode_columns, names_in
from deltactl.ingest.sources import FrameFolder, Source, VideoFile, ZippedFolder
from deltactl.ingest.video.zips import ZipArchive
from deltactl.reading import Limit, leads_to_file, open_regular, read_file

SIDECAR = Limit(256_000_000, "the columns of a video")
THREADS = 16
"""More than cores: they wait for shared file systems."""
CHUNK = 256
"""Files that a thread looks at in a row."""
MARK_DIGITS = 16


def held_columns(root: Path, source: Source, archive: ZipArchive | None) -> HeldColumns:
    """Return what holds the columns of a source: an episode itself, or the file beside it, maybe in the zip `archive`.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError, SourceError: it is damaged.
    """
    if isinstance(source, Episode):
        return source.columns(root)
    data = read_sidecar(root, source, archive)

    def read(names: Collection[str]) -> dict[str, np.ndarray]:
        return decode_columns(data, names, SIDECAR.bytes)

    return HeldColumns(sidecar_of(source), tuple(names_in(data)), read, timed=True)


def sidecar_of(source: Source) -> str:
    """Return the file that holds a source's columns, relative to the root like the source."""
    folder, slash, name = source.name.rpartition("/")
    stem = name.rpartition(".")[0] if isinstance(source, VideoFile) else name
    return f"{folder}{slash}{stem}.{SUFFIX}"


def open_archive(root: Path) -> ZipArchive | None:
    """Return the zip that the sources of a listing lie in; None where its root is a folder."""
    return ZipArchive(root) if root.is_file() else None


def has_columns(root: Path, source: Source) -> bool:
    """Whether there is such a file, or an episode that brings its own."""
    if isinstance(source, ZippedFolder):
        return source.columns is not None
    if isinstance(source, Episode):
        return True
    return isinstance(source, VideoFile | FrameFolder) and leads_to_file(root / sidecar_of(source))


def read_sidecar(root: Path, source: Source, archive: ZipArchive | None) -> bytes:
    """Return the bytes of the file; `archive` is the zip that the source may lie in.

    Raises:
        OSError: it is not there, or cannot be read.
        SourceError: the zip's member cannot be read.
    """
    if not isinstance(source, ZippedFolder):
        return read_file(root / sidecar_of(source), SIDECAR)
    if source.columns is None or archive is None:
        raise FileNotFoundError(sidecar_of(source))
    (member,) = archive.members((source.columns,))
    return archive.read(member, SIDECAR)


def marks_of(root: Path, sources: Sequence[Source], names: Collection[str]) -> dict[str, str | None]:
    """Return the mark that each source's file has for the arrays of these names, by source; None: there is none."""
    archive = open_archive(root)
    if archive is not None:
        with archive:
            return {source.name: _mark_in_zip(root, source, archive, names) for source in sources}

    def look(part: Sequence[Source]) -> list[tuple[str, str | None]]:
        return [(source.name, _mark(root / sidecar_of(source), names)) for source in part]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(look, [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)])
        return dict(pair for part in parts for pair in part)


def _mark(path: Path, names: Collection[str]) -> str | None:
    try:
        with open_regular(path) as file:
            return _digest(checksums_in(file, names))
    except (OSError, ValueError):
        return None


def _mark_in_zip(root: Path, source: Source, archive: ZipArchive, names: Collection[str]) -> str | None:
    try:
        return _digest(checksums_in(io.BytesIO(read_sidecar(root, source, archive)), names))
    except (OSError, SourceError, ValueError):
        return None


def _digest(checksums: Sequence[tuple[str, int, int]]) -> str:
    return hashlib.sha256(repr(list(checksums)).encode("utf-8", "surrogateescape")).hexdigest()[:MARK_DIGITS]
