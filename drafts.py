"""Names of files that are being written: hidden, with the machine and process that writes, so that leftovers are known.

Also what tells machines and processes apart: a process number alone may be another machine's, or taken anew.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems of Linux."""


def draft_name(name: str) -> str:
    """Return a hidden name for what will become `name`; it holds the machine and process that make it."""
    mark = f".{secrets.token_hex(4)}@{this_machine()}+{os.getpid()}"
    return f".{cut_name(name, LONGEST_NAME - 1 - len(os.fsencode(mark)))}{mark}"


def cut_name(name: str, most: int) -> str:
    """Return the beginning of a file's name, of at most so many bytes."""
    return os.fsdecode(os.fsencode(name)[:most])


def is_draft(name: str) -> bool:
    """Whether a file's name is one that `draft_name` makes."""
    machine, _, process = name.rpartition("@")[2].partition("+")
    return name.startswith(".") and "@" in name and bool(machine) and process.isdigit()


def is_abandoned(name: str) -> bool:
    """Whether this is the name of a draft whose process, of this machine, is dead."""
    machine, _, process = name.rpartition("@")[2].partition("+")
    return is_draft(name) and machine == this_machine() and process_start(int(process)) is None


def remove_abandoned_drafts(folder: Path) -> None:
    """Remove what has a `draft_name` in a folder and whose process, of this machine, is dead."""
    try:
        drafts = [path for path in folder.iterdir() if is_abandoned(path.name)]
    except (FileNotFoundError, NotADirectoryError):  # there is none, or another process has just removed it
        return
    for path in drafts:
        with contextlib.suppress(OSError):  # another process removes it as well
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def this_machine() -> str:
    """Return what tells this machine from others, and from other containers of it, whose processes are not seen."""
    return f"{socket.gethostname()}-{Path('/proc/self/ns/pid').stat().st_ino}"


def process_start(process: int) -> int | None:
    """Return when a process of this machine began, in clock ticks since it booted; None where it has ended."""
    try:
        # The command's name, in brackets, may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
