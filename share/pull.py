"""Fetches what `push` sent, whole or not at all: into a draft beside the place, verified there, then moved in.

Before anything is fetched the repository is asked what it holds, and the disk whether there is room. What is fetched is
compared with the hashes of the Hub where nothing of ours covers it, and read as `deltactl verify` reads it. A pull that
was stopped goes on file by file when it is given again; files that arrived damaged are taken out of the draft, so that
they are fetched anew. The draft is `.NAME.partial/pull` beside NAME, or `.partial/pull` in it.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deltactl.artifacts import HEADER, INDEX, check_identity, default_location, workspace
from deltactl.claims import hold
from deltactl.configs.training import RUN_CONFIG
from deltactl.errors import ArtifactError, CheckpointError, ConfigError, DamagedError, StorageError
from deltactl.featurize.verify import Verification
from deltactl.locations import Location, fsync_folder, make_folder, storage_errors
from deltactl.progress import format_bytes
from deltactl.share.contents import Kind, identity_of, kind_of_folder
from deltactl.share.repository import RemoteFile, Repository, find
from deltactl.staging import remove_if_empty, staging_root
from deltactl.train.checkpoints.files import CONFIG_FILE
from deltactl.train.checkpoints.loading import read
from deltactl.train.checkpoints.verify import verify_run
from deltactl.verification import Finding

DRAFT = "pull"
CACHE = ".cache"
"""Where the Hub's client keeps, inside of what it fetches, what it has fetched."""
MARKERS = (CONFIG_FILE, RUN_CONFIG, HEADER, INDEX)
"""What says that something is there, and is moved in last, in this order."""
SMALL = 16 << 20
"""Up to so many bytes a file of an artifact is compared with the Hub's hash; larger ones have checksums of ours."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    kind: Kind
    place: Location
    files: int
    bytes: int
    fetched: bool
    """Whether anything was fetched; not where it is there already."""
    seconds: float


def pull(repo: str, out: str | Path | Location | None = None, *, revision: str | None = None) -> Pulled:
    """Fetch the repository `repo` to `out`, by default where the workspace keeps such a thing under the same name.

    Raises:
        ArtifactError, ConfigError: the repository holds something else, or `out` does.
        ClaimedError: another process writes there.
        DamagedError, CheckpointError: it arrived damaged, or is not whole on the Hub.
        HubError: there is none, it is gated, or the connection broke; what arrived is kept.
        IdentityError: another artifact lies at `out`.
        StorageError: there is no room.
    """
    started = time.monotonic()
    repository, commit, files, kind = find(repo, revision)
    files = {path: file for path, file in files.items() if path != ".gitattributes"}
    if kind in ("shards", "features", "tokens") and INDEX not in files:
        raise DamagedError(
            f"{repository.name} on the Hub has no {INDEX}, which a push sends last: it has not ended; ask whoever "
            "shares it to give the same command again"
        )
    target = _target(out, kind, repository)
    if not target.is_local:
        raise ConfigError(f"--out {target} is not on a disk, to which files are fetched; fetch it to one, then copy it")
    size = sum(file.size for file in files.values())
    if target.list():
        _check_there(target, kind, repository, commit, files)
        return Pulled(kind, target, len(files), size, False, time.monotonic() - started)
    with hold(target):
        draft = staging_root(target) / DRAFT
        _check_room(target, draft, size, repository)
        make_folder(draft)
        for half in (draft / CACHE).rglob("*.incomplete"):  # of a process that was killed; no other uses them
            half.unlink(missing_ok=True)
        repository.fetch(commit, draft)
        for path in [each for each in draft.rglob("*") if not each.is_dir()]:
            name = path.relative_to(draft).as_posix()
            if name not in files and not name.startswith(f"{CACHE}/"):
                path.unlink()  # of another commit, or another repository, that was to be fetched to this place
        _check(Location.of(draft), kind, files, repository)
        _move_in(draft, target)
    remove_if_empty(target)
    return Pulled(kind, target, len(files), size, True, time.monotonic() - started)


def _target(out: str | Path | Location | None, kind: Kind, repository: Repository) -> Location:
    if out is not None:
        return Location.of(out)
    name = repository.name.rpartition("/")[2]
    if kind == "network":
        return workspace() / "exports" / name
    return default_location("runs" if kind == "run" else kind, name)


def _check_there(
    target: Location, kind: Kind, repository: Repository, commit: str, files: Mapping[str, RemoteFile]
) -> None:
    """Check that what lies at the target is what the repository holds, so that nothing needs to be fetched.

    Raises:
        ConfigError: it is something else, or another state of it.
        IdentityError: it is another artifact.
        DamagedError: it is damaged.
    """
    other = (
        f"{target} is there already, and not as {repository.name} is on the Hub; nothing is overwritten: choose "
        "another --out"
    )
    try:
        there = kind_of_folder(target)
    except DamagedError:
        raise
    except ArtifactError as error:
        raise ConfigError(other) from error
    if there != kind:
        raise ConfigError(other)
    if kind in ("shards", "features", "tokens"):
        check_identity(target, repository.identity(commit), identity_of(target))
    for path, file in files.items():
        place = target.path / path
        if not place.is_file() or place.stat().st_size != file.size:
            raise ConfigError(f"{other} ({path} differs)")
    _raise(repository, [each for each in _findings(target, kind, files) if each.harmful])


def _check_room(target: Location, draft: Path, size: int, repository: Repository) -> None:
    there = Location.of(draft).total_bytes() if draft.exists() else 0
    free = target.free_bytes()
    if free is not None and free < size - there:
        raise StorageError(
            f"{repository.name} takes {format_bytes(size)}, but {format_bytes(free)} are free for {target}; make room, "
            "or choose another --out"
        )


def _check(draft: Location, kind: Kind, files: Mapping[str, RemoteFile], repository: Repository) -> None:
    """Verify what arrived, and take out of the draft what is damaged.

    Raises:
        DamagedError, CheckpointError: something is; the message names it.
    """
    missing = [path for path in files if not (draft.path / path).is_file()]
    if missing:
        raise DamagedError(
            f"{len(missing):,} files of {repository.name} did not arrive, such as {missing[0]}; run the same command "
            "again, what arrived is kept"
        )
    harmful = [finding for finding in _findings(draft, kind, files) if finding.harmful]
    for finding in harmful:
        if finding.kind == "damaged":
            Location.of(draft.path / finding.path).remove()
            (draft.path / CACHE / "huggingface" / "download" / f"{finding.path}.metadata").unlink(missing_ok=True)
    _raise(repository, harmful)


def _raise(repository: Repository, harmful: list[Finding]) -> None:
    if not harmful:
        return
    more = f" and {len(harmful) - 1:,} more" if len(harmful) > 1 else ""
    raise DamagedError(
        f"{repository.name}: {harmful[0]}{more}; run the same command again, which fetches it anew; if it is so again, "
        "it is damaged on the Hub"
    )


def _findings(root: Location, kind: Kind, files: Mapping[str, RemoteFile]) -> list[Finding]:
    """Return what is wrong with what arrived: first by the hashes of the Hub, then as `deltactl verify` finds it."""
    findings = []
    for path, file in sorted(files.items()):
        if (kind in ("run", "network") or file.size <= SMALL) and not _matches(root.path / path, file):
            findings.append(Finding("damaged", path, "it does not match the hash that the Hub has of it"))
    if findings:
        return findings
    if kind == "network":
        try:
            read(root)
        except CheckpointError as error:
            return [Finding("damaged", "model.safetensors", str(error))]
        return []
    return Verification.of(root, verify_run).run()


def _matches(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the Hub's hash: SHA-256 of large ones, that of a blob of git (SHA-1) of others."""
    size = path.stat().st_size
    if size != file.size:
        return False
    found = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if file.sha256 is None else hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            found.update(block)
    return found.hexdigest() == (file.sha256 or file.blob)


def _move_in(draft: Path, target: Location) -> None:
    """Move what was fetched to its place, what says that it is there last."""
    names = sorted((path.name for path in draft.iterdir() if path.name != CACHE), key=lambda name: (_rank(name), name))
    with storage_errors(target, "write"):
        for name in names:
            (draft / name).rename(target.path / name)
        fsync_folder(target.path)
        shutil.rmtree(draft)


def _rank(name: str) -> int:
    return MARKERS.index(name) if name in MARKERS else -1
