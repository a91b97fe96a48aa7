"""Finds files by a pattern of paths: `frames/{split}/{video}/{frame}.png`, in which * stands for any letters.

Takes a root and a pattern, returns for each video its files by frame. Only names in folders are read, each folder once,
and none of videos that are not wanted. Names that begin with a dot do not count.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from deltactl.configs.dataset import FIELD
from deltactl.errors import ConfigError
from deltactl.locations import Location

FRAME = "{frame}"
SHOWN = 3
"""Names that a message shows of those that are there."""
LOOKED_AT = 50
"""Folders that are looked into for a message."""


@dataclass
class VideoFiles:
    """The files of one video."""

    form: str
    """Path of a file of it, with `{frame}` in the place of the frame's name."""
    files: dict[str, str] = field(default_factory=dict)
    """Path, relative to the root, by the frame's name; that of a video file by the empty name."""


@dataclass(frozen=True)
class Wanted:
    """What a pattern is to match."""

    split: str
    video: Callable[[str], bool]
    """Takes the name of a video, returns whether its files are wanted."""
    numbered: bool
    """Whether the names of frames are numbers: others are no frames."""


def find_files(root: Location, pattern: str, wanted: Wanted) -> dict[str, VideoFiles]:
    """Return the files that match a pattern, by the names of their videos, sorted.

    Raises:
        ConfigError: two files are of the same frame.
    """
    found: dict[str, VideoFiles] = {}
    given = {"split": wanted.split}
    for path, form, names in _walk(root, "", "", pattern.split("/"), given, wanted):
        video, frame = names["video"], names.get("frame", "")
        files = found.setdefault(video, VideoFiles(form)).files
        if (other := files.setdefault(frame, path)) != path:
            what = f"frame {frame} of video {video}" if frame else f"video {video}"
            raise ConfigError(f"{root}: {other} and {path} are both {what}, by the pattern {pattern}; remove one")
    return dict(sorted(found.items()))


def why_nothing(root: Location, pattern: str, wanted: Wanted) -> str:
    """Return why no file matches a pattern: the first folder where none goes on, and what is there instead."""
    if not root.exists():
        return f"there is no folder {root}"
    parts, given = pattern.split("/"), {"split": wanted.split}
    reached: list[Step] = [("", "", given)]
    part = parts[0]
    for number, part in enumerate(parts):  # noqa: B007 (the part where it ends is what matters)
        found = list(itertools.islice(_walk(root, "", "", parts[: number + 1], given, wanted), LOOKED_AT))
        if not found:
            break
        reached = found
    folders = ((root / path if path else root, names) for path, _, names in reached)
    folder, names = next((each for each in folders if each[0].list()), (root / reached[0][0], reached[0][2]))
    there = folder.list()
    if not there:
        what = "a file" if folder.is_local and folder.path.is_file() else "empty"
        return f"{folder} is {what}, and {part} was expected in it"
    shown = f"{', '.join(there[:SHOWN])}{f' and {len(there) - SHOWN:,} more' if len(there) > SHOWN else ''}"
    expression, only = _expression(part, names, wanted)
    if only is not None:
        near = difflib.get_close_matches(only, there, n=1)
        return f"{folder} has no {only}; {f'did you mean {near[0]}?' if near else f'it has {shown}'}"
    if any(expression.fullmatch(name) for name in there):
        return f"{folder} has {shown}, and no video among them is of this split"
    of_any_name, _ = _expression(part, names, replace(wanted, numbered=False))
    digits = "; {frame} is a number, numbers: order takes any name" if any(map(of_any_name.fullmatch, there)) else ""
    return f"{folder} has {shown}, and none is like {part}{digits}"


Step = tuple[str, str, Mapping[str, str]]
"""A path, its form (see `VideoFiles`), and what the fields of the pattern are in it."""


def _walk(
    folder: Location, path: str, form: str, parts: list[str], names: Mapping[str, str], wanted: Wanted
) -> Iterator[Step]:
    """Yield what matches `parts`, the rest of a pattern, in a folder, whose `path` is what went before."""
    part, rest = parts[0], parts[1:]
    expression, only = _expression(part, names, wanted)
    for name in folder.list() if only is None else [only]:
        match = expression.fullmatch(name)
        if match is None or (
            "video" not in names and "video" in match.groupdict() and not wanted.video(match["video"])
        ):
            continue
        new = {**names, **match.groupdict()}
        there = name
        if "frame" in match.groupdict():
            there = f"{name[: match.start('frame')]}{FRAME}{name[match.end('frame') :]}"
        if rest:
            yield from _walk(folder / name, f"{path}{name}/", f"{form}{there}/", rest, new, wanted)
        elif only is None or (folder / name).exists():
            yield f"{path}{name}", f"{form}{there}", new


def _expression(part: str, names: Mapping[str, str], wanted: Wanted) -> tuple[re.Pattern[str], str | None]:
    """Return what matches the part of a pattern between two slashes, and the name itself where it is known."""
    text, only, end, known = "", "", 0, True
    for match in FIELD.finditer(part):
        literal, name = part[end : match.start()], match[1]
        end = match.end()
        if name is None:
            letters, known = "[^/]*", False
        elif name in names:
            letters = f"(?P<{name}>{re.escape(names[name])})"
        else:
            letters, known = f"(?P<{name}>{'[0-9]+' if name == 'frame' and wanted.numbered else '[^/]+'})", False
        text += re.escape(literal) + letters
        only += literal + (names.get(name, "") if name else "")
    return re.compile(text + re.escape(part[end:])), only + part[end:] if known else None
