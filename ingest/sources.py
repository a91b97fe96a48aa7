"""Which videos there are: a Kinetics tree of files or frame folders, a zip of such folders, or any tree of videos.

Takes a root and the lists of what to take and to leave out; returns the sources, sorted by name, which is all that the
plan depends on. No file is opened or asked for its size: 536,000 sources are listed in seconds (one `scandir` a
folder), and what is wrong with one (a dangling link, a folder named .mp4) shows when it is read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deltactl.errors import ConfigError
from deltactl.ingest.shards.columns import SUFFIX
from deltactl.ingest.video.zips import PART, DirectorySpan, EntrySpan, ZipArchive, decode_name
from deltactl.locations import storage_errors
from deltactl.progress import counted
from deltactl.reading import LIST, leads_to_file, read_file, reason_of

_SUFFIXES = """
    .mp4 .m4v .mov .qt .3gp .3gpp .3g2 .3gp2 .f4v .mj2 .insv .lrv .mkv .webm .avi .divx .ts .m2ts .mts .m2t .tp .trp
    .mpg .mpeg .mpe .vob .evo .ps .m2p .m1v .m2v .mp2v .mpv .mxf .gxf .dv .flv .wmv .asf .dvr-ms .wtv .rm .rmvb
    .ogv .ogg .ogm .ivf .nut .gif .y4m .mjpeg .mjpg .obu .h264 .264 .h265 .265 .hevc .h266 .266 .vvc
"""
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
"""What names of videos end in; the containers are those that `timestamps` opens."""
USUAL = ".mp4, .mov, .mkv, .webm"
HDF5_SUFFIXES = frozenset({".hdf5", ".h5"})
"""What names of HDF5 files end in."""
COLUMNS_SUFFIX = f".{SUFFIX}"
"""What names of files end in that hold the columns of a video (see `video.columns`)."""


@dataclass(frozen=True, slots=True)
class Source:
    """One video to cut clips from."""

    name: str
    """Path relative to the root, with forward slashes; of a part of a file any such name, unlike all others."""

    @property
    def file(self) -> str | None:
        """The file that it lies in, relative to the root; None: it is none, or is not looked at."""
        return None

    @property
    def video(self) -> str:
        """What is held out together: its name, or what all cameras that saw the same have in common."""
        return self.name

    @property
    def seen_by(self) -> str | None:
        """The camera that saw it, where there are several to choose from."""
        return None


class VideoFile(Source):
    """A video file."""

    __slots__ = ()

    @property
    def file(self) -> str:
        """Itself."""
        return self.name


class FrameFolder(Source):
    """A folder of frames on a disk."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ZippedFolder(Source):
    """A folder of frames inside the zip that is the root."""

    spans: tuple[DirectorySpan, ...]
    """Where the zip's directory lists its frames."""
    columns: DirectorySpan | None = None
    """Where it lists the file of its columns, if there is one."""


@dataclass(frozen=True, slots=True)
class RefusedSource(Source):
    """Something that is not touched, and why."""

    reason: str
    camera: str | None = None
    """Of an episode: the camera that saw it."""

    @property
    def seen_by(self) -> str | None:
        """The camera, if it is known."""
        return self.camera


@dataclass(frozen=True)
class VideoListing:
    """All sources of a data set, sorted by name."""

    dataset: str
    root: Path
    """The folder that names are relative to, or the zip."""
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
    """What was passed over, in sentences."""
    columns: int = 0
    """Files `NAME.columns.npz` that lie among them."""


def list_folder(root: Path) -> VideoListing:
    """Return every file with a video's suffix below a folder; links to folders are not followed."""
    sources: list[Source] = []
    passed_over: Counter[str] = Counter()
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in _scan(root / folder if folder else root):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_video_name(entry.name):
                sources.append(VideoFile(name))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_symlink() and entry.is_dir():
                passed_over["links to folders"] += 1
            else:
                passed_over[_suffix(entry.name)] += 1
    return _listing("folder", root, sources, passed_over)


def list_paths(paths: Sequence[Path]) -> VideoListing:
    """Return the videos that are named, and those below the folders that are; names are relative to what holds all.

    Raises:
        ConfigError: a path does not exist, or is a file that is no video.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist; name videos, or folders of videos")
        if path.is_file() and not _is_video_name(path.name):
            raise ConfigError(f"{path} is not a video by its name; expected a folder, or a file such as {USUAL}, …")
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    names: dict[str, Source] = {}
    notes: list[str] = []
    columns = 0
    for path in paths:
        if path.is_dir():
            inside = list_folder(path)
            found = [path / source.name for source in inside.sources]
            notes += inside.notes
            columns += inside.columns
        else:
            found = [path]
            columns += leads_to_file(path.with_suffix(COLUMNS_SUFFIX))
        for each in found:
            name = each.relative_to(root).as_posix()
            names[name] = VideoFile(name)
    return VideoListing("folder", root, tuple(names[name] for name in sorted(names)), tuple(notes), columns)


def list_kinetics(place: Path, split: str) -> VideoListing:
    """Return the sources of a Kinetics split: `SPLIT/CLASS/ID.mp4`, `SPLIT/CLASS/ID/frame_SECONDS.jpg`, or a zip.

    `place` is the root, or the zip (or its first part); a root may hold the zip in place of the split's folder.
    """
    if place.is_file():
        return list_zip(place, split)
    if not place.is_dir():
        raise ConfigError(f"{place} does not exist; name the root of Kinetics, or set KINETICS_ROOT")
    if not (place / split).is_dir():
        return list_zip(_find_zip(place, split), split)
    sources: list[Source] = []
    passed_over: Counter[str] = Counter()
    for folder in _scan(place / split):
        if not folder.is_dir():
            passed_over[_suffix(folder.name)] += 1
            continue
        prefix = f"{split}/{folder.name}"
        for entry in _scan(place / prefix):
            if _is_video_name(entry.name):
                sources.append(VideoFile(f"{prefix}/{entry.name}"))
            elif entry.is_dir():
                sources.append(FrameFolder(f"{prefix}/{entry.name}"))
            else:
                passed_over[_suffix(entry.name)] += 1
    return _listing("kinetics", place, sources, passed_over)


def list_zip(path: Path, split: str) -> VideoListing:
    """Return the folders of frames inside a zip; those below a folder named as the split, if there is one.

    A folder whose path would leave the archive is refused, and so listed.
    """
    folders: dict[bytes, list[DirectorySpan]] = {}
    beside: dict[bytes, DirectorySpan] = {}
    apart = COLUMNS_SUFFIX.encode()
    with storage_errors(path, "read"), ZipArchive(path) as archive:
        for folder, span in archive.folders(apart):
            if isinstance(span, EntrySpan):
                beside[folder.removesuffix(apart)] = span
            else:
                folders.setdefault(folder, []).append(span)
    has_split = any(split.encode() in folder.split(b"/") for folder in folders)
    refused: list[Source] = []
    found: dict[str, list[DirectorySpan]] = {}
    columns: dict[str, DirectorySpan] = {}
    for folder, spans in folders.items():
        name = decode_name(folder)
        parts = name.split("/")
        if reason := _escapes(name):
            refused.append(RefusedSource(f"{split}/{re.sub('[^A-Za-z0-9_-]', '_', name)}", reason))
        elif parts[0] == "__MACOSX" or not name:
            continue
        elif not has_split or split in parts[:-1]:
            taken = "/".join(parts[parts.index(split) :]) if has_split else f"{split}/{name}"
            found.setdefault(taken, []).extend(spans)
            if folder in beside:
                columns[taken] = beside[folder]
    sources = [*refused, *(ZippedFolder(name, tuple(spans), columns.get(name)) for name, spans in found.items())]
    return _listing("kinetics", path, sources, Counter({COLUMNS_SUFFIX: len(columns)}))


def select(listing: VideoListing, take: Path | None, leave_out: Path | None) -> VideoListing:
    """Return the listing with only what the file `take` names, and without what the file `leave_out` names.

    A line names a source by its path below the root, with or without its split folder and its suffix, or by the last
    part alone.

    Raises:
        ConfigError: a list cannot be read, or no source is left.
    """
    sources, notes = listing.sources, list(listing.notes)
    if take is not None:
        wanted = _read_names(take, "--split-file")
        sources = tuple(source for source in sources if wanted.intersection(_aliases(source.name)))
        if not sources:
            raise ConfigError(f"{take} names none of the {len(listing.sources):,} sources in {listing.root}")
        notes.append(f"{len(sources):,} of {counted(len(listing.sources), 'sources')} are in {take}")
    if leave_out is not None:
        unwanted = _read_names(leave_out, "--exclude")
        kept = tuple(source for source in sources if not unwanted.intersection(_aliases(source.name)))
        notes.append(f"{counted(len(sources) - len(kept), 'sources')} left out by {leave_out}")
        sources = kept
    if not sources:
        raise ConfigError(f"no sources are left in {listing.root} after {leave_out}")
    return VideoListing(listing.dataset, listing.root, sources, tuple(notes), listing.columns)


def choose_cameras(listing: VideoListing, cameras: str) -> VideoListing:
    """Return the listing with only what these cameras saw: whole names, or what follows their last dot, with commas.

    Raises:
        ConfigError: the sources have no cameras, or not these.
    """
    wanted = dict.fromkeys(cameras.split(","))
    known = sorted({each.seen_by for each in listing.sources if each.seen_by is not None})
    if not known:
        raise ConfigError(f"--cameras is {cameras}, but the sources in {listing.root} have none to choose from")
    chosen = {camera for camera in known if any(_calls(name, camera) for name in wanted)}
    if absent := [name for name in wanted if not any(_calls(name, camera) for camera in known)]:
        raise ConfigError(f"--cameras names {', '.join(absent)}, but {listing.root} has {', '.join(known)}")
    return replace(listing, sources=tuple(each for each in listing.sources if each.seen_by in {None, *chosen}))


def _calls(name: str, camera: str) -> bool:
    return name in (camera, camera.rpartition(".")[2])


def _listing(dataset: str, root: Path, sources: list[Source], passed_over: Counter[str]) -> VideoListing:
    if not sources:
        if any(kind in HDF5_SUFFIXES for kind in passed_over):
            raise ConfigError(f"no videos were found in {root}, but HDF5 files; for these say --dataset hdf5")
        raise ConfigError(
            f"no videos were found in {root}; expected files such as {USUAL}, …, "
            "or for Kinetics SPLIT/CLASS/ID.mp4, SPLIT/CLASS/ID/frame_SECONDS.jpg or a zip of such folders"
        )
    columns = passed_over.pop(COLUMNS_SUFFIX, 0)
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in passed_over.most_common(5))
    notes = (f"passed over what is not a video: {kinds}",) if kinds else ()
    return VideoListing(dataset, root, tuple(sorted(sources, key=lambda source: source.name)), notes, columns)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder, without hidden files and leftovers of archives (`._*`)."""
    try:
        with storage_errors(folder, "list"), os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{folder} is not a folder; name the folder that holds the videos") from error


def _find_zip(root: Path, split: str) -> Path:
    names = sorted(entry.name for entry in _scan(root))
    zips = [name for name in names if name.endswith(".zip") or ((part := PART.fullmatch(name)) and int(part[2]) == 0)]
    for name in (f"{split}.zip", f"{split}.zip.part000", f"{split}.part000"):
        if name in zips:
            return root / name
    if len(zips) == 1:
        return root / zips[0]
    found = f"; there are {', '.join(zips)}: name one" if zips else ""
    raise ConfigError(f"{root} holds neither a folder {split!r} nor {split}.zip or {split}.zip.part000{found}")


def _escapes(name: str) -> str | None:
    if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/") or "\0" in name:
        return f"its path {name!r} leads out of the archive"
    return None


def _read_names(path: Path, option: str) -> frozenset[str]:
    try:
        # As `os.fsdecode` reads the names of files, which need not be UTF-8 either.
        lines = read_file(path, LIST).decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise ConfigError(f"{option} {path} {reason_of(error)}; expected a text file") from error
    return frozenset(stripped.strip("/") for line in lines if (stripped := line.strip()) and not line.startswith("#"))


def _aliases(name: str) -> Iterable[str]:
    """Return the ways in which a list may name a source."""
    below = name.partition("/")[2]
    last = name.rpartition("/")[2]
    for each in (name, below, last):
        yield each
        if _is_video_name(each):
            yield each.rpartition(".")[0]


def _is_video_name(name: str) -> bool:
    return _suffix(name) in VIDEO_SUFFIXES


def _suffix(name: str) -> str:
    if name.endswith(COLUMNS_SUFFIX):
        return COLUMNS_SUFFIX
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot else "without a suffix"
