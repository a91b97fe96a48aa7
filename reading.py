"""Opens and reads what others made: regular files only, never more bytes than their kind may have, never for ever.

Takes a local path, returns an open file or its bytes. A folder of frames or labels may hold a link to `/dev/zero`, a
named pipe that nobody writes to, or a sparse file of 40 GB; each of them is refused by name, before a byte of it is
read. The check is made on the open descriptor (`O_NONBLOCK`, then `fstat`): nothing can be swapped between the
check and the read, and opening a pipe returns at once. JSON is parsed here too: nothing that is not JSON (NaN), no
number beyond what a float holds, no deeper than anything of ours.

Costs one `fstat` a file. A read is asked for in pieces and given up after `READ_SECONDS`; one single read that the
kernel does not answer (a network disk whose server is gone) can only be ended with its process.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

READ_SECONDS = 300.0
"""How long a file may take to be read whole."""
PIECE_BYTES = 1 << 24
"""Bytes asked for at once; the time limit is checked between pieces."""
MOST_DEPTH = 64
"""How deep JSON may be nested; our own files reach 8."""


class UnreadableError(OSError):
    """A path that leads to no regular file, or to one that is larger than its kind may be.

    `strerror` says which, as the rest of a sentence that begins with the path.
    """

    def __init__(self, code: int, reason: str, path: str | os.PathLike[str]) -> None:
        super().__init__(code, reason, os.fspath(path))


@dataclass(frozen=True)
class Limit:
    """The most bytes that a kind of file may have."""

    bytes: int
    what: str
    """The kind, with its article."""

    @property
    def may(self) -> str:
        """The end of a sentence that tells the limit."""
        return f"that {self.what} may have"


PICTURE = Limit(256_000_000, "a frame or label")
LIST = Limit(256_000_000, "a list")
SETTINGS = Limit(256 * 1024, "a file of settings")
DESCRIPTION = Limit(64_000_000, "the description of a model")
METADATA = Limit(1_000_000_000, "an index or other metadata")
"""All keys of 536,000 clips make 12 MB."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """Return a descriptor to read a regular file from.

    Raises:
        UnreadableError: the path leads to something else.
        IsADirectoryError: it leads to a folder.
        OSError: whatever else `os.open` raises.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # what opening a socket, or a device without a driver, says
            raise UnreadableError(errno.EINVAL, "is a socket or device, not a file", path) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
            raise UnreadableError(errno.EINVAL, f"is {kind}, not a file", path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading; raises as `open_descriptor`."""
    return open(open_descriptor(path), "rb")


def check_regular(path: str | os.PathLike[str]) -> int:
    """Return the size in bytes of a regular file that another library will open; raises as `open_descriptor`."""
    descriptor = open_descriptor(path)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def read_file(path: str | os.PathLike[str], limit: Limit) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        UnreadableError: as `open_descriptor`; there are more bytes than `limit` allows; they do not come in
            `READ_SECONDS`.
    """
    descriptor = open_descriptor(path)
    try:
        check_size(os.fstat(descriptor).st_size, limit, path)
        pieces, left = [], limit.bytes + 1
        deadline = time.monotonic() + READ_SECONDS
        while piece := os.read(descriptor, min(left, PIECE_BYTES)):
            pieces.append(piece)
            left -= len(piece)
            if left <= 0:  # it grows while it is read, or has no true size
                raise UnreadableError(errno.EFBIG, f"has more than the {limit.bytes:,} bytes {limit.may}", path)
            if time.monotonic() > deadline:
                raise UnreadableError(errno.ETIMEDOUT, f"was not read in {READ_SECONDS:g} s", path)
    except BlockingIOError as error:
        raise UnreadableError(errno.EAGAIN, "gives nothing when it is read", path) from error
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def leads_to_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a regular file; no error if it cannot lead anywhere, being too long, say."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 (of text as well)
    except (OSError, ValueError):
        return False


def check_size(size: int, limit: Limit, path: str | os.PathLike[str]) -> None:
    """Check that a file has no more bytes than its kind may have.

    Raises:
        UnreadableError: it has more.
    """
    if size > limit.bytes:
        raise UnreadableError(errno.EFBIG, f"has {size:,} bytes, more than the {limit.bytes:,} {limit.may}", path)


def reason_of(error: OSError) -> str:
    """Return why a file cannot be read, as the rest of a sentence that begins with its name."""
    if isinstance(error, UnreadableError):
        return str(error.strerror)
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a file"
    return f"cannot be read: {error.strerror or error}"


def read_text(path: str | os.PathLike[str], limit: Limit) -> str:
    """Return the text of a regular file in UTF-8; raises as `read_file`, and UnicodeDecodeError."""
    return read_file(path, limit).decode("utf-8")


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, holds NaN or an infinite number, or is nested deeper than `MOST_DEPTH`.
    """
    try:
        value = json.loads(data, parse_constant=_not_a_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from error
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return value


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond what a number can be")
    return value
