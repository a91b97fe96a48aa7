"""Where things lie: a file or folder on a disk or in an object store, behind one small interface.

Takes a path or URL (`/data/x`, `x`, `file:///data/x`, `s3://bucket/x`, and to read `hf://datasets/owner/name/x`, a
repository of the Hugging Face Hub); returns bytes, names of children, and the form in which tensorstore wants the same
place. Writes appear whole or not at all: a disk gets a temporary file, fsync and
rename; an object store does that by itself. Foreign storage errors become `StorageError`; an absent file stays
`FileNotFoundError`, which callers turn into a sentence about what is missing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deltactl.drafts import draft_name
from deltactl.errors import DamagedError, StorageError
from deltactl.hub import refusal
from deltactl.reading import METADATA, Limit, UnreadableError, check_size, open_regular, parse_json, read_file

REMOTE_TIMEOUT_SECONDS = 120.0
"""How long an object store may be silent before that is an error; its client tries again meanwhile."""
REMOTE_ATTEMPTS = 5
"""How often s3fs makes a request."""
SLOWEST_UPLOAD = 1e6
"""Bytes a second below which an upload counts as silence."""
MOST_ATTEMPTS = 100
"""To make a folder while other processes remove it, empty, again and again."""
WITHOUT_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What a file system says that has no hard links, such as exFAT."""
PROBE_BYTES = 1 << 20


@dataclass(frozen=True)
class Location:
    """A file or folder, local or remote. Build it with `Location.of`, extend it with `/`."""

    url: str
    """An absolute local path, or a URL with a scheme; no slash at the end."""

    @classmethod
    def of(cls, place: str | os.PathLike[str] | Location) -> Location:
        """Return the location of a path, a URL, or a location as it is."""
        if isinstance(place, Location):
            return place
        text = os.fspath(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if "://" in text:
            return cls(text.rstrip("/"))
        text = os.path.expanduser(text)  # noqa: PTH111 (keeps symbolic links, as `abspath` does)
        parts = text.split("/")
        if ".." in parts:
            # What lies above a link is above its target, as the system itself takes it.
            after = len(parts) - parts[::-1].index("..")
            text = "/".join([os.path.realpath("/".join(parts[:after])), *parts[after:]])
        return cls(os.path.abspath(text))  # noqa: PTH100

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.url.rstrip('/')}/{name.strip('/')}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The folder that holds this one."""
        return Location(self.url.rsplit("/", 1)[0] or "/")

    @property
    def is_local(self) -> bool:
        """Whether this lies in a file system of this machine."""
        return "://" not in self.url

    @property
    def is_on_hub(self) -> bool:
        """Whether this lies in a repository of the Hugging Face Hub, which is read only."""
        return self.url.startswith("hf://")

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            ValueError: the location is remote.
        """
        if not self.is_local:
            raise ValueError(f"{self.url} is not a local path")
        return Path(self.url)

    def exists(self) -> bool:
        """Whether a file or a non-empty remote folder is there."""
        with storage_errors(self, "look up"):
            return self.path.exists() if self.is_local else bool(self._filesystem().exists(self.url))

    def list(self, *, hidden: bool = False) -> list[str]:
        """Return the sorted names of what lies in this folder; empty if it is absent.

        Names that begin with a dot, such as those of drafts, are left out unless `hidden` is set.
        """
        if self.is_local:
            try:
                with storage_errors(self, "list"), os.scandir(self.path) as entries:
                    return sorted(entry.name for entry in entries if hidden or not entry.name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []
        try:
            with storage_errors(self, "list"):
                paths = self._filesystem().ls(self.url, detail=False)
        except FileNotFoundError:
            return []
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in paths} - {self.name, ""}
        return sorted(name for name in names if hidden or not name.startswith("."))

    def size(self) -> int:
        """Return the size of this file in bytes.

        Raises:
            FileNotFoundError: it is absent.
        """
        with storage_errors(self, "look up"):
            return self.path.stat().st_size if self.is_local else int(self._filesystem().size(self.url))

    def total_bytes(self) -> int:
        """Return the size of this file, or of all files below this folder; 0 if it is absent."""
        with storage_errors(self, "look up"):
            if not self.is_local:
                filesystem = self._filesystem()
                return int(filesystem.du(self.url)) if filesystem.exists(self.url) else 0
            if not self.path.is_dir() or self.path.is_symlink():
                return self.path.lstat().st_size if os.path.lexists(self.path) else 0
            files = (each for each in self.path.rglob("*") if not each.is_dir() or each.is_symlink())
            return sum(each.lstat().st_size for each in files)

    def open(self) -> io.BufferedReader:
        """Open this file for reading.

        Raises:
            FileNotFoundError: it is absent.
            StorageError: it is a pipe, a device or a socket.
        """
        with storage_errors(self, "open"):
            if self.is_local:
                return open_regular(self.path)
            return io.BufferedReader(self._filesystem().open(self.url, "rb"))

    def read_bytes(self, limit: Limit | None = None) -> bytes:
        """Return the whole file.

        `limit` is by default that of metadata on a disk, and none for an object, whose size would be a request more.

        Raises:
            FileNotFoundError: it is absent.
            StorageError: it is no file, or larger than `limit`.
        """
        with storage_errors(self, "read"):
            if self.is_local:
                return read_file(self.path, limit or METADATA)
            filesystem = self._filesystem()
            if limit is not None:
                check_size(int(filesystem.size(self.url)), limit, self.url)
            return cast(bytes, filesystem.cat_file(self.url))

    def read_whole(self, remedy: str = "") -> bytes:
        """Return a whole file of an artifact of ours.

        Raises:
            FileNotFoundError: it is absent.
            DamagedError: something else lies in its place; the message ends with `remedy`.
            StorageError: the disk fails or the store is down, which says nothing about the file.
        """
        with damage_in_place_of(self, remedy):
            return self.read_bytes()

    def read_range(self, first: int, last: int | None = None) -> bytes:
        """Return the bytes from `first` (below 0: counted from the end) up to `last`, fewer if the file ends."""
        with storage_errors(self, "read"):
            if not self.is_local:
                # The Hub's file system would read on to the end of a block.
                ahead = {"cache_type": "none"} if self.is_on_hub else {}
                return cast(bytes, self._filesystem().cat_file(self.url, start=first, end=last, **ahead))
            with self.path.open("rb") as file:
                file.seek(max(first + self.size(), 0) if first < 0 else first)
                return file.read(-1 if last is None else last - first)

    def read_json(self) -> Any:
        """Return the parsed file.

        Raises:
            DamagedError: it is not JSON.
        """
        try:
            return parse_json(self.read_whole())
        except ValueError as error:
            raise DamagedError(f"{self} is damaged: expected JSON ({error})") from error

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, which appears at once or not at all and survives a power cut."""
        with storage_errors(self, "write"):
            if not self.is_local:
                self._upload("pipe_file", self.url, data, size=len(data))
                return
            make_folder(self.path.parent)
            temporary = self.path.with_name(draft_name(self.name))
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
            fsync_folder(self.path.parent)

    def write_json(self, value: Any) -> None:
        """Write a JSON file, readable by people, in the same way."""
        self.write_bytes(json_bytes(value, indent=1) + b"\n")

    def create_bytes(self, data: bytes) -> bool:
        """Write the whole file unless there is one; return whether this process did.

        On a disk that is a hard link, which is exclusive on NFS too; in an object store a conditional put. Where there
        is neither, two processes at the same instant may both be told that they did.
        """
        with storage_errors(self, "write"):
            if not self.is_local:
                return self._create_remote(data)
            draft = self.parent / draft_name(self.name)
            draft.write_bytes(data)
            try:
                os.link(draft.path, self.path)
            except FileExistsError:
                # Over NFS the answer to a link that was made may get lost, and it is asked for again.
                return draft.path.stat().st_nlink == 2
            except OSError as error:
                if error.errno not in WITHOUT_LINKS:
                    raise
                if self.path.exists():
                    return False
                draft.path.rename(self.path)
            finally:
                draft.remove()
            fsync_folder(self.path.parent)
            return True

    def modified(self) -> float:
        """Return when this file was last written, by the clock of what stores it.

        Raises:
            FileNotFoundError: it is absent.
        """
        with storage_errors(self, "look up"):
            if self.is_local:
                return self.path.stat().st_mtime
            return float(self._filesystem().modified(self.url).timestamp())

    def remove(self) -> None:
        """Remove this file or whole folder; nothing happens if it is absent."""
        with storage_errors(self, "remove"):
            if not self.is_local:
                self._must_be_writable()
                filesystem = self._filesystem()
                if filesystem.exists(self.url):
                    filesystem.rm(self.url, recursive=True)
            elif self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)

    def upload(self, source: Path) -> None:
        """Copy a local file to this place; whole or not at all."""
        with storage_errors(self, "write"):
            if self.is_local:
                self.write_bytes(source.read_bytes())
            else:
                self._upload("put_file", str(source), self.url, size=source.stat().st_size)

    def free_bytes(self) -> int | None:
        """Return the free space of the disk that holds (or will hold) this; None for an object store."""
        if not self.is_local:
            return None
        place = Path(os.path.realpath(self.path))
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def tensorstore(self) -> dict[str, Any]:
        """Return tensorstore's key-value store specification of this folder."""
        if self.is_local:
            return {"driver": "file", "path": f"{self.url}/"}
        scheme, _, rest = self.url.partition("://")
        bucket, _, path = rest.partition("/")
        if scheme != "s3":
            raise StorageError(f"{self}: stores can lie on a disk or under s3://, not under {scheme}://")
        specification: dict[str, Any] = {
            "driver": "s3",
            "bucket": bucket,
            "path": f"{path}/" if path else "",
            "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        }
        if endpoint := _s3_endpoint():
            specification["endpoint"] = endpoint
        if "AWS_ACCESS_KEY_ID" in os.environ:
            specification["aws_credentials"] = {"type": "environment"}
        return specification

    def _upload(self, operation: str, *arguments: Any, size: int, **options: Any) -> None:
        """Call an operation of the file system that sends `size` bytes, with a time limit of our own.

        The client's timeouts do not run while it waits for the server to say go on (`Expect: 100-continue`).
        """
        self._must_be_writable()
        filesystem = self._filesystem()
        seconds = REMOTE_TIMEOUT_SECONDS + size / SLOWEST_UPLOAD
        try:
            timeout = {"timeout": seconds} if filesystem.async_impl else {}
            getattr(filesystem, operation)(*arguments, **options, **timeout)
        except TimeoutError as error:
            raise StorageError(
                f"could not write {self}: no answer for {seconds:.0f} s; is the storage down? "
                "Run the same command again to go on"
            ) from error

    def _create_remote(self, data: bytes) -> bool:
        try:
            self._upload("pipe_file", self.url, data, size=len(data), mode="create")
            return True
        except (OSError, NotImplementedError) as error:
            with contextlib.suppress(FileNotFoundError):
                return self.read_bytes() == data  # an answer that got lost is asked for again
            if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                raise
            self.write_bytes(data)
            return True

    def _must_be_writable(self) -> None:
        if self.is_on_hub:
            raise StorageError(f"{self} is on the Hub, which is only read so; write to a disk, then run: deltactl push")

    def _filesystem(self) -> Any:
        import fsspec

        filesystem, _ = fsspec.core.url_to_fs(self.url, **_remote_options(self.url))
        return filesystem


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """Return a value as JSON that people can read, in UTF-8.

    What `os.fsdecode` made of a file name's bytes that are not UTF-8 is written as its escape, such as `\\udc80`, which
    JSON readers give back.
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def storage_errors(place: Location | Path, verb: str) -> Iterator[None]:
    """Turn storage failures into `StorageError`s that say what to do; an absent or existing file passes through."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, StorageError):
        raise
    except UnreadableError as error:
        raise StorageError(f"{place} {error.strerror}") from error
    except OSError as error:
        raise StorageError(_said_by_hub(error, place) or _storage_message(error, place, verb)) from error
    except Exception as error:
        if (said := _said_by_hub(error, place)) is not None:
            raise StorageError(said) from error
        # Object-store clients raise a zoo of network errors that share no base class.
        if isinstance(place, Location) and not place.is_local:
            raise StorageError(f"could not {verb} {place}: {type(error).__name__}: {error}") from error
        if verb == "write" and (cause := _cause_in_a_writer(error, Path(str(place)))) is not None:
            raise StorageError(_storage_message(cause, place, verb)) from error
        raise


def _said_by_hub(error: Exception, place: Location | Path) -> str | None:
    """Return the sentence for what the Hub's client raised; None for what is not on the Hub, or not about it."""
    if not (isinstance(place, Location) and place.is_on_hub):
        return None
    absent = f"{place} is nothing on the Hub that this account may see; check the spelling, and run `hf auth login`"
    remedy = "run the same command again where there is a network"
    name = place.url.removeprefix("hf://").removeprefix("models/")
    unreachable = f"{place} cannot be read:"
    return refusal(error, name, absent=absent, unreachable=unreachable, without_network=remedy)


def _storage_message(error: OSError, place: Location | Path, verb: str) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"no space left to {verb} {place}; make room, then run the same command again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"no permission to {verb} {place}; make it accessible, or name another place"
        case errno.ENAMETOOLONG:
            return f"could not {verb} {place}: a name in it is too long for its file system; choose a shorter one"
        case errno.EFBIG:
            return f"could not {verb} {place}: a file may not be so large here (ulimit -f, or the file system)"
        case _:
            return f"could not {verb} {place}: {error}"


def _cause_in_a_writer(error: Exception, place: Path) -> OSError | None:
    """Return why a library's own writer failed; None if the error is not one of writing.

    That of safetensors gives the system's number within its text, that of torch nothing at all: there a small file,
    written beside, shows what is wrong with the disk.
    """
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if "inline_container" not in text and "PytorchStreamWriter" not in text:
        return None
    folder = next(each for each in (place, *place.parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as cause:
        return cause
    return OSError(errno.EIO, f"its writer failed ({text.strip().splitlines()[0]})")


@contextlib.contextmanager
def damage_in_place_of(place: Location, remedy: str = "") -> Iterator[None]:
    """Turn what `open` and `read_bytes` say of a folder, a pipe or a file of absurd size into a DamagedError."""
    try:
        yield
    except IsADirectoryError as error:
        raise DamagedError(f"{place} is damaged: it is a directory, not a file{remedy}") from error
    except StorageError as error:
        if isinstance(error.__cause__, UnreadableError):
            raise DamagedError(f"{place} is damaged: it {error.__cause__.strerror}{remedy}") from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, also where links lead to what is not there yet.

    Another process may remove an empty one of these meanwhile.

    Raises:
        StorageError: a file is in the way.
    """
    for attempt in itertools.count():
        try:
            if not folder.is_dir():
                Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError as error:
            if attempt == MOST_ATTEMPTS:
                raise StorageError(f"could not make the folder {folder}: {error}") from error
        except (FileExistsError, NotADirectoryError) as error:
            found = next((place for place in (folder, *folder.parents) if place.is_file()), folder)
            raise StorageError(f"{found} is a file where a folder should be; name another place") from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a local folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _s3_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _remote_options(url: str) -> dict[str, Any]:
    if not url.startswith("s3://"):
        return {}
    seconds = REMOTE_TIMEOUT_SECONDS / REMOTE_ATTEMPTS
    options: dict[str, Any] = {
        "use_listings_cache": False,  # other machines publish at the same time
        # s3fs itself tries again, so botocore need not.
        "config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"max_attempts": 1}},
    }
    if endpoint := _s3_endpoint():
        options["endpoint_url"] = endpoint
    return options
