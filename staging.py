"""Publishes units of an artifact whole or not at all; where drafts lie until then, and what dead processes left there.

A draft becomes part of the artifact by a rename, so it must lie on the artifact's own file system: in `.NAME.partial`
beside the artifact's folder (links followed), or, where the folder above is on another file system or cannot be
written, in `.partial` inside it. What is on its way to an object store lies in the folder for temporary files. Small
files are drafts beside themselves (`drafts.draft_name`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deltactl.drafts import LONGEST_NAME, draft_name, is_abandoned, is_draft, remove_abandoned_drafts
from deltactl.locations import Location, fsync_folder, make_folder, storage_errors

INSIDE = ".partial"
NOT_BESIDE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EDQUOT})
"""Why a folder cannot be made beside an artifact and moved into it."""
WITHOUT_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""What a file system says that has no locks, such as some mounts of Lustre."""


# --- publishing ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def publish_folder(root: Location, name: str, *, marker: str = "zarr.json", replace: bool = False) -> Iterator[Path]:
    """Yield an empty local folder whose content becomes `root/name` when the body ends without an exception.

    On a disk the folder appears by one rename; in an object store the file `marker` is written last, and readers take
    a folder without it as absent. Where another process was first, theirs is kept, unless `replace` is set.
    """
    target = root / name
    with _staging(root, name) as folder:
        yield folder
        if not target.is_local:
            if replace or not (target / marker).exists():
                _upload(folder, target, marker, replace)
            return
        with storage_errors(target, "write"):
            _fsync_tree(folder)
            make_folder(target.path.parent)
            with _publish_lock(root):
                if replace and target.path.exists():
                    # Aside, not away: the old folder vanishes with the staging folder once the new one stands.
                    target.path.rename(folder.with_name(f"{folder.name}-replaced"))
                try:
                    folder.rename(target.path)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            fsync_folder(target.path.parent)


@contextlib.contextmanager
def publish_files(
    root: Location, marker: str, *, replace: bool = False, outdated: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Yield an empty local folder whose files and folders appear side by side in `root` when the body ends.

    The file `marker`, which the body must write, comes last: without it the others do not count, and after an exception
    nothing appears. Where another process was first, theirs is kept, unless `replace` is set; then what stood there
    under the same names goes, and what `outdated` says of a name that is not among the new ones.
    """
    with _staging(root, marker) as folder:
        yield folder
        assert (folder / marker).is_file(), f"the marker {marker} was not written"
        names = sorted((entry.name for entry in folder.iterdir()), key=lambda name: name == marker)
        old = [name for name in root.list() if name not in names and outdated is not None and outdated(name)]
        if not root.is_local:
            if replace or not (root / marker).exists():
                _upload(folder, root, marker, replace)
                for name in old:
                    (root / name).remove()
            return
        with storage_errors(root, "write"):
            _fsync_tree(folder)
            make_folder(root.path)
            with _publish_lock(root):
                if (root / marker).exists():
                    if not replace:
                        return
                    (root / marker).remove()
                    fsync_folder(root.path)
                # Aside, not away: what stood there vanishes with the staging folder.
                replaced = folder.with_name("replaced")
                replaced.mkdir()
                for name in [*old, *names]:
                    if (root / name).path.is_dir():
                        (root / name).path.rename(replaced / name)
                    elif name in old:
                        (root / name).remove()
                for name in names:
                    if name == marker:
                        fsync_folder(root.path)
                    (folder / name).replace(root.path / name)
            fsync_folder(root.path)


def discard_folders(root: Location, names: Sequence[str], *, marker: str = "zarr.json") -> None:
    """Take published folders away, each whole: a process that dies meanwhile leaves it as it was, or not at all."""
    if not root.is_local:
        for name in names:
            (root / name / marker).remove()
            (root / name).remove()
        return
    if not names:
        return
    with _staging(root, "discarded") as folder, storage_errors(root, "remove"):
        for number, name in enumerate(names):
            with contextlib.suppress(FileNotFoundError):  # another process takes it away as well
                (root / name).path.rename(folder / str(number))
        for parent in {(root / name).path.parent for name in names}:
            fsync_folder(parent)


@contextlib.contextmanager
def _staging(root: Location, name: str) -> Iterator[Path]:
    with storage_errors(root.path if root.is_local else Path(tempfile.gettempdir()), "write"):
        outer = staging_root(root) / draft_name(name.replace("/", "-"))
        make_folder(outer / "content")
        try:
            yield outer / "content"
        finally:
            shutil.rmtree(outer, ignore_errors=True)
            remove_if_empty(root)


@contextlib.contextmanager
def _publish_lock(root: Location) -> Iterator[None]:
    """Let one process at a time put its files in place, so that data and marker come from the same one."""
    path = staging_root(root) / "lock"
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            # Then two processes that publish one unit at once may mix its data and mark, which the checksum shows.
            break
        # Whoever held the lock removed the file: the one that counts is the one that is there now.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _upload(folder: Path, target: Location, marker: str, replace: bool) -> None:
    if replace:
        (target / marker).remove()
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: name == marker):
        (target / name).upload(folder / name)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


# --- drafts ----------------------------------------------------------------------------------------------------------


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
