"""Who writes an artifact or a run: said in its folder, so that a second process is refused, or shares the work.

    NAME/.claims/TOKEN.json     a process that writes here: host, process, command, since when

`hold` is for what one process writes alone (a run, a report, an export), `share` for the units of a stage, which
`unit_claims` divides among the processes. Both *announce, then look*: a process writes a file of its own, then lists
the folder, and backs off where it finds another that is alive. Of two that come at once the one that looks last sees
the other, whatever the order, so that two never both go on; where both back off, they try again after a random moment.
That asks nothing of the storage but that a list shows what was written before it, which disks, NFS (a folder that one
has just written to is read anew) and object stores give. Claims of the dead are taken away: on this machine where the
process, known by its number and start, is gone; of another machine `DEAD_AFTER_SECONDS` after the last heartbeat, by
the storage's own clock. Whoever was taken for dead and is not finds out at its next `confirm`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deltactl.artifacts import make_provenance
from deltactl.drafts import process_start, this_machine
from deltactl.errors import ClaimedError, StorageError
from deltactl.locations import Location, json_bytes, make_folder, storage_errors
from deltactl.signals import unwinding
from deltactl.staging import clean_staging, staging_root

log = logging.getLogger(__name__)

FOLDER = ".claims"
HEARTBEAT_SECONDS = 30.0
DEAD_AFTER_SECONDS = 300.0
"""After so long without a heartbeat a process of another machine counts as dead."""
ATTEMPTS = 8
"""How often to look again where another has come at the same time."""
MOST_NAMED = 3

Mode = Literal["alone", "shared"]


@dataclass(frozen=True)
class Holder:
    """A process that has announced itself; the content of its file."""

    mode: Mode
    host: str
    machine: str
    """Host and process namespace, see `drafts.this_machine`."""
    boot: str
    """Which start of its kernel, so that a process number of before does not count."""
    process: int
    started: int
    """In clock ticks since the boot."""
    command: str
    time: str
    """UTC."""
    settled: bool
    """Whether it has looked, and writes; else it may still back off."""
    folder: int
    """Inode of the folder that is claimed, 0 in an object store: a copy of the folder is not claimed."""

    @classmethod
    def here(cls, root: Location, mode: Mode, *, since: str | None, settled: bool) -> Holder:
        """Return this process as the holder of a folder, since now where no time is given."""
        facts = make_provenance([])
        return cls(
            mode,
            facts["host"],
            this_machine(),
            _boot(),
            os.getpid(),
            process_start(os.getpid()) or 0,
            facts["command"],
            since or facts["time"],
            settled,
            _inode(root),
        )

    @classmethod
    def from_json(cls, data: bytes) -> Holder | None:
        """Return the content of a claim; None where it is none, or only half there."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None

    @property
    def is_near(self) -> bool:
        """Whether its process would be seen from here."""
        return (self.machine, self.boot) == (this_machine(), _boot())

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.time} ({self.command})"


@dataclass(frozen=True)
class Found:
    """A living claim of another process."""

    token: str
    holder: Holder | None
    age: float
    """Seconds since its last heartbeat."""

    def __str__(self) -> str:
        return "a process that is not known" if self.holder is None else str(self.holder)


class Claim:
    """What this process has claimed; made by `hold` and `share`."""

    def __init__(self, root: Location, mode: Mode) -> None:
        self.root = root
        self.token = secrets.token_hex(8)
        """What this process is called in the names and the content of claims."""
        self.folder = root / FOLDER
        """Where the claims lie."""
        self.mode = mode
        self._file = self.folder / f"{self.token}.json"
        self._process = os.getpid()
        self._stop = threading.Event()
        self._since: str | None = None
        self._settled = False
        self._heart: threading.Thread | None = None

    def acquire(self) -> list[Found]:
        """Announce this process and return those that share the work.

        Raises:
            ClaimedError: one of the others must be alone, or this one.
        """
        for attempt in range(ATTEMPTS):
            self._announce()
            others = self.others()
            self._clear()
            blocking = [each for each in others if self.mode == "alone" or _is_alone(each)]
            if not blocking:
                self._settled = True
                self._announce()
                self._heart = threading.Thread(target=self._beat, name="claim", daemon=True)
                self._heart.start()
                return others
            self._file.remove()
            blocking.sort(key=lambda each: each.holder is not None and each.holder.settled, reverse=True)
            if blocking[0].holder is not None and blocking[0].holder.settled:
                break
            time.sleep(random.uniform(0.001, 0.01 * 2**attempt))
        raise ClaimedError(refusal(self.root, blocking[0]))

    def confirm(self) -> None:
        """Check that this process still has its claim; renew one that was taken away.

        Raises:
            ClaimedError: it was taken for dead meanwhile, and another process writes here.
        """
        if self._process == os.getpid() and not self._file.exists():
            self._announce()
            if others := [each for each in self.others() if self.mode == "alone" or _is_alone(each)]:
                raise ClaimedError(f"this process gave no sign of life for too long: {refusal(self.root, others[0])}")

    def others(self) -> list[Found]:
        """Return the living claims of others; those of the dead are taken away."""
        now = self._now()
        found = []
        for name in self.folder.list():
            token, _, kind = name.partition(".")
            if kind != "json" or token == self.token:
                continue
            place = self.folder / name
            try:
                holder, age = Holder.from_json(place.read_bytes()), now - place.modified()
            except FileNotFoundError:  # it has just ended
                continue
            if _is_alive(holder, age, self.root):
                found.append(Found(token, holder, age))
            else:
                place.remove()
        return found

    def release(self) -> None:
        """Take the claim away, and what others left that died meanwhile."""
        if self._process != os.getpid():  # a child that was forked
            return
        with contextlib.suppress(StorageError):
            self.others()
            self._clear()
        self._stop.set()
        if self._heart is not None:
            self._heart.join(HEARTBEAT_SECONDS)
        with contextlib.suppress(StorageError):  # it counts as dead before long
            self._file.remove()
        if self.folder.is_local:
            with contextlib.suppress(OSError):
                self.folder.path.rmdir()

    def __getstate__(self) -> dict[str, Any]:
        # In another process it claims nothing.
        return {**self.__dict__, "_stop": None, "_heart": None, "_process": 0}

    def _clear(self) -> None:
        """Take away what killed processes leave: claims of units without one of their own, and old drafts of claims."""
        now = self._now()
        for name in self.folder.list(hidden=True):
            place = self.folder / name
            with contextlib.suppress(FileNotFoundError):
                if name.startswith("."):
                    gone = now - place.modified() > DEAD_AFTER_SECONDS
                else:
                    token = place.read_bytes().decode(errors="replace")
                    gone = name.endswith(".unit") and not (self.folder / f"{token}.json").exists()
                if gone:
                    place.remove()

    def _announce(self) -> None:
        """Write the claim's file, though others who end may take away the folders that they made, when empty."""
        for attempt in range(ATTEMPTS):
            try:
                if self.root.is_local:
                    make_folder(self.root.path)
                holder = Holder.here(self.root, self.mode, since=self._since, settled=self._settled)
                self._since = holder.time
                self._file.write_bytes(json_bytes(asdict(holder), indent=1))
                if _inode(self.root) == holder.folder:
                    return
            except FileNotFoundError:
                if attempt == ATTEMPTS - 1:
                    raise
            except StorageError as error:
                raise StorageError(str(error).replace(str(self._file), str(self.root))) from error

    def _now(self) -> float:
        """Return the time by the storage's clock."""
        self._touch()
        try:
            return self._file.modified()
        except FileNotFoundError:  # taken for dead
            return time.time()

    def _touch(self) -> None:
        if self._file.is_local:
            with contextlib.suppress(FileNotFoundError), storage_errors(self._file, "write"):
                os.utime(self._file.path)
        elif self._file.exists():
            self._announce()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(StorageError, OSError):  # it may be there again at the next beat
                self._touch()


@contextlib.contextmanager
def hold(root: Location) -> Iterator[Claim]:
    """Be the only process that writes to a folder, which is made.

    Raises:
        ClaimedError: another process writes there.
        StorageError: nothing can be written there.
    """
    with _claimed(Claim(root, "alone")) as claim:
        yield claim


@contextlib.contextmanager
def share(root: Location) -> Iterator[Claim]:
    """Write units to a folder beside others that do, which `unit_claims` divides among them.

    Raises:
        ClaimedError: a process writes there that must be alone.
        StorageError: nothing can be written there.
    """
    with _claimed(Claim(root, "shared")) as claim:
        yield claim


def writers(root: Location) -> list[Found]:
    """Return the living claims of a folder, for one who only looks: nothing is announced, and nothing taken away.

    The age of a claim is by this machine's clock.
    """
    folder = root / FOLDER
    found = []
    for name in folder.list():
        token, _, kind = name.partition(".")
        if kind != "json":
            continue
        try:
            holder, age = Holder.from_json((folder / name).read_bytes()), time.time() - (folder / name).modified()
        except FileNotFoundError:  # it has just ended
            continue
        if _is_alive(holder, age, root):
            found.append(Found(token, holder, age))
    return found


def refusal(root: Location, found: Found) -> str:
    """Return why a process may not write to a folder now, and what to do."""
    said = f"{root} is being written by {found}; wait until it ends, or choose another --out"
    if found.holder is not None and found.holder.is_near:
        return f"{said} (to end it: kill {found.holder.process})"
    minutes, seconds = DEAD_AFTER_SECONDS / 60, max(0.0, found.age)
    return f"{said}; if it is gone, its claim ends {minutes:g} minutes after its last sign of life, {seconds:.0f} s ago"


@contextlib.contextmanager
def _claimed(claim: Claim) -> Iterator[Claim]:
    root = claim.root
    with _folder_for(root), unwinding():
        try:
            if others := claim.acquire():
                log.info("%s: the work is shared with %s", root, listed(others))
            clean_staging(root)
            yield claim
        finally:
            claim.release()
            with contextlib.suppress(StorageError, OSError):
                clean_staging(root)


@contextlib.contextmanager
def _folder_for(root: Location) -> Iterator[None]:
    """Make a folder, and take it away at the end where it did not exist and nothing came of it."""
    if not root.is_local:
        yield
        return
    real = Path(os.path.realpath(root.path))
    made = [folder for folder in (real, *real.parents) if not folder.exists()]
    with storage_errors(root, "write"):
        make_folder(root.path)
        staging_root(root)  # tried now, and not after the work
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def listed(found: Sequence[Found]) -> str:
    """Return who they are, the first few of them."""
    few = "; ".join(map(str, found[:MOST_NAMED])) or "others"
    return few if len(found) <= MOST_NAMED else f"{few}; and {len(found) - MOST_NAMED} others"


def _is_alone(found: Found) -> bool:
    return found.holder is None or found.holder.mode == "alone"


def _is_alive(holder: Holder | None, age: float, root: Location) -> bool:
    if holder is None:
        return age < DEAD_AFTER_SECONDS
    if holder.folder != _inode(root):
        return False
    if holder.is_near:
        return process_start(holder.process) == holder.started
    return age < DEAD_AFTER_SECONDS


def _inode(root: Location) -> int:
    return root.path.stat().st_ino if root.is_local else 0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
