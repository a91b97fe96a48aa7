"""Where drafts of an artifact lie until they are published, what dead processes left of them, and removing that.

A draft becomes part of the artifact by a rename, so it must lie on the artifact's own file system: in `.NAME.partial`
beside the artifact's folder (links followed), or, where the folder above is on another file system or cannot be
written, in `.partial` inside it. What is on its way to an object store lies in the folder for temporary files. Small
files are drafts beside themselves (`drafts.draft_name`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deltactl.drafts import LONGEST_NAME, draft_name, is_abandoned, is_draft, remove_abandoned_drafts
from deltactl.locations import Location, make_folder

INSIDE = ".partial"
NOT_BESIDE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EDQUOT})
"""Why a folder cannot be made beside an artifact and moved into it."""


def staging_root(root: Location) -> Path:
    """Return the folder for the drafts of an artifact, which may not be there yet.

    Tries, once in each process, whether what is made beside the artifact can be moved into it.
    """
    if not root.is_local:
        return Path(tempfile.gettempdir())
    real = Path(os.path.realpath(root.path))
    # A folder that is not there yet will be made where the one above it lies.
    return _beside(real) if not real.is_dir() or _can_move_in(real) else real / INSIDE


def clean_staging(root: Location) -> None:
    """Remove what dead processes of this machine left in and beside `root`, or wherever files wait to be uploaded."""
    if not root.is_local:
        remove_abandoned_drafts(Path(tempfile.gettempdir()))
        return
    for folder in (*_folders(root.path), *_staging_places(root)):
        remove_abandoned_drafts(folder)
    remove_if_empty(root)


def remove_if_empty(root: Location) -> None:
    """Remove the folders for drafts of an artifact where nothing is in them."""
    for place in _staging_places(root) if root.is_local else ():
        with contextlib.suppress(OSError):
            place.rmdir()


def leftovers(root: Location) -> Iterator[tuple[str, str]]:
    """Yield the path, relative to the artifact, of each draft in and beside it on a disk, and what it is."""
    if not root.is_local:
        return
    beside, inside = _staging_places(root)
    places = {folder: folder.relative_to(root.path).as_posix() for folder in _folders(root.path)}
    for folder, name in {**places, beside: f"../{beside.name}", inside: INSIDE}.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in sorted(folder.iterdir()):
                if is_draft(path.name) or (folder not in places and path.name != "lock"):
                    state = "died" if is_abandoned(path.name) else "is running, or died elsewhere"
                    yield f"{name}/{path.name}".removeprefix("./"), f"a draft of a process that {state}"


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders in which small files are written: the artifact's own, and those right below it."""
    yield root
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name != INSIDE and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def _beside(real: Path) -> Path:
    name = f".{real.name}.partial"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(real.name)).hexdigest()[:32]}.partial"
    return real.parent / name


def _staging_places(root: Location) -> tuple[Path, Path]:
    real = Path(os.path.realpath(root.path))
    return _beside(real), real / INSIDE


@functools.cache
def _can_move_in(real: Path) -> bool:
    """Whether a folder made beside this one can be renamed into it (mounts of one disk differ, too)."""
    name = draft_name("probe")
    probe, target = _beside(real) / name, real / name
    try:
        make_folder(probe)
        probe.rename(target)
    except OSError as error:
        if error.errno not in NOT_BESIDE:
            raise
        return False
    finally:
        for folder in (probe, target, probe.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()
    return True
