"""Reads folders of frames inside one zip file, in place, also where the zip is split into `.part000, .part001, …`.

Takes the path of a zip (or of its first part); returns the folders in it, and the bytes of their members. The central
directory is read as a stream: listing keeps one entry for each folder, not for each member, because a zip of
all frames of Kinetics has tens of millions of members and Python's `zipfile` keeps 500 bytes for each, in every
process. (1 M members: 1.5 s and no memory to speak of.) Names are never used as paths: nothing is unpacked.

Format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3 (zip64); members stored or deflated.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltactl.errors import ConfigError, SourceError
from deltactl.reading import PICTURE, Limit, open_regular

PART = re.compile(r"(.*\.part)(\d{3,})")
END, END64, LOCATOR64, ENTRY, LOCAL = (b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4")
ENTRY_FIELDS = struct.Struct("<4s4xHH4xIIIHHH8xI")
ENTRY_BYTES, LOCAL_BYTES, END_BYTES = 46, 30, 22
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DirectorySpan:
    """A stretch of the central directory: entries of one folder, one after the other."""

    start: int
    stop: int


class EntrySpan(DirectorySpan):
    """The entry of a single file."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One file of the archive."""

    name: str
    method: int
    encrypted: bool
    crc: int
    stored_bytes: int
    bytes: int
    offset: int


class ZipArchive:
    """An open zip file. A context manager.

    Raises:
        ConfigError: a part is missing, or it is not a whole zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_joined(parts_of(path))
        try:
            self._start, self._stop = self._find_directory()
        except BaseException:
            self._file.close()
            raise

    def folders(self, apart: bytes = b"") -> Iterator[tuple[bytes, DirectorySpan]]:
        """Yield each folder that holds files, with its stretch of the directory; a folder may come more than once.

        A file whose name ends with `apart` counts to no folder: its path is yielded by itself, with an `EntrySpan`.
        """
        folder: bytes | None = None
        start = self._start
        for offset, entry in self._entries(DirectorySpan(self._start, self._stop)):
            name_bytes = int.from_bytes(entry[28:30], "little")
            name = bytes(entry[ENTRY_BYTES : ENTRY_BYTES + name_bytes])
            parent, slash, base = name.rpartition(b"/")
            if apart and name.endswith(apart):
                if folder is not None:
                    yield folder, DirectorySpan(start, offset)
                folder = None
                yield name, EntrySpan(offset, offset + len(entry))
                continue
            is_folder = slash and not base  # an entry for a folder itself; counts to the stretch it lies in
            if parent != folder and not is_folder:
                if folder is not None:
                    yield folder, DirectorySpan(start, offset)
                folder, start = parent, offset
        if folder is not None:
            yield folder, DirectorySpan(start, self._stop)

    def members(self, spans: Sequence[DirectorySpan]) -> list[ZipMember]:
        """Return the files in these stretches of the directory, in its order."""
        members = [_parse_entry(entry) for span in spans for _, entry in self._entries(span)]
        return [member for member in members if not member.name.endswith("/")]

    def read(self, member: ZipMember, limit: Limit = PICTURE) -> bytes:
        """Return the bytes of a member.

        Raises:
            SourceError: they are damaged, encrypted, too many, or packed in an unusual way.
        """
        if member.encrypted or member.method not in (0, 8):
            raise SourceError(
                f"{member.name} is encrypted or packed by method {member.method}; stored or deflated only"
            )
        if max(member.bytes, member.stored_bytes) > limit.bytes:
            raise SourceError(f"{member.name} claims {member.bytes:,} bytes, more than {limit.bytes:,} {limit.may}")
        header = b""
        if member.offset < self._start:
            self._file.seek(member.offset)
            header = self._file.read(LOCAL_BYTES)
        if len(header) < LOCAL_BYTES or header[:4] != LOCAL:
            raise SourceError(f"{member.name} is not where the zip's directory says it is")
        name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
        self._file.seek(name_bytes + extra_bytes, io.SEEK_CUR)
        data = self._file.read(member.stored_bytes)
        try:
            if member.method == 8:
                data = zlib.decompressobj(-15).decompress(data, member.bytes + 1)
        except zlib.error as error:
            raise SourceError(f"{member.name} is damaged: {error}") from error
        if len(data) != member.bytes or zlib.crc32(data) != member.crc:
            raise SourceError(f"{member.name} is damaged: it does not match its checksum")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ZipArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entries(self, span: DirectorySpan) -> Iterator[tuple[int, memoryview]]:
        """Yield the offset and the bytes of each directory entry in a stretch, reading a block at a time."""
        self._file.seek(span.start)
        left = span.stop - span.start
        block, position, base = memoryview(b""), 0, span.start
        while True:
            have = len(block) - position
            size = ENTRY_BYTES
            if have >= ENTRY_BYTES:
                size += sum(struct.unpack_from("<HHH", block, position + 28))
            if have < size:
                if left == 0 and have == 0:
                    return
                fresh = self._file.read(min(left, BLOCK_BYTES))
                if not fresh:
                    raise self._damaged()
                base, left = base + position, left - len(fresh)
                block, position = memoryview(bytes(block[position:]) + fresh), 0
                continue
            if block[position : position + 4] != ENTRY:
                raise self._damaged()
            yield base + position, block[position : position + size]
            position += size

    def _find_directory(self) -> tuple[int, int]:
        """Return where the central directory starts and stops."""
        size = self._file.seek(0, io.SEEK_END)
        tail_start = max(0, size - END_BYTES - 0xFFFF - 20)
        self._file.seek(tail_start)
        tail = self._file.read()
        end = tail.rfind(END)
        while end >= 0 and int.from_bytes(tail[end + 20 : end + 22], "little") != len(tail) - end - END_BYTES:
            end = tail.rfind(END, 0, end)  # the comment at the end may hold the same letters
        if end < 0:
            raise ConfigError(f"{self.path} is not a whole zip file: it has no directory at its end (a missing part?)")
        directory_bytes, start = struct.unpack_from("<II", tail, end + 12)
        locator = end - 20
        if locator >= 0 and tail[locator : locator + 4] == LOCATOR64:
            (end64,) = struct.unpack_from("<Q", tail, locator + 8)
            if end64 > size:
                raise self._damaged()
            self._file.seek(end64)
            record = self._file.read(56)
            if len(record) < 56 or record[:4] != END64:
                raise self._damaged()
            directory_bytes, start = struct.unpack_from("<QQ", record, 40)
        if start + directory_bytes > size:
            raise self._damaged()
        return start, start + directory_bytes

    def _damaged(self) -> ConfigError:
        return ConfigError(f"{self.path} is damaged: its directory cannot be read (a missing or misplaced part?)")


class JoinedFile(io.RawIOBase):
    """Files read as one, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[io.BufferedReader] = []
        self._starts = [0]
        self._position = 0
        for path in paths:
            file = open_regular(path)
            self._files.append(file)
            self._starts.append(self._starts[-1] + os.fstat(file.fileno()).st_size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the joined file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer from the part that holds the present place, and return how much came."""
        number = next((n for n in range(len(self._files)) if self._position < self._starts[n + 1]), None)
        if number is None:
            return 0
        file = self._files[number]
        file.seek(self._position - self._starts[number])
        count = file.readinto(buffer)
        self._position += count
        return count

    def close(self) -> None:
        """Close all parts."""
        for file in self._files:
            file.close()
        super().close()


def parts_of(path: Path) -> list[Path]:
    """Return the files that make up a zip: itself, or all its parts in order.

    Raises:
        ConfigError: a part is missing.
    """
    match = PART.fullmatch(path.name)
    if not match:
        return [path]
    numbers = sorted(
        int(found[2]) for each in path.parent.iterdir() if (found := PART.fullmatch(each.name)) and found[1] == match[1]
    )
    width = len(match[2])
    for expected, number in enumerate(numbers):
        if number != expected:
            missing = f"{match[1]}{expected:0{width}}"
            raise ConfigError(f"{path.parent / missing} is missing; the parts of a split zip are numbered from 000 on")
    return [path.with_name(f"{match[1]}{number:0{width}}") for number in numbers]


def open_joined(paths: Sequence[Path]) -> io.BufferedReader:
    """Open one or several files as one, buffered."""
    if len(paths) == 1:
        return open_regular(paths[0])
    return io.BufferedReader(JoinedFile(paths), buffer_size=1 << 16)


def decode_name(data: bytes) -> str:
    """Return the text of a name in the archive: UTF-8 if it is, else the code page that zip files default to."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp437")


def _parse_entry(entry: memoryview) -> ZipMember:
    _, flags, method, crc, stored, size, name_bytes, extra_bytes, _, offset = ENTRY_FIELDS.unpack_from(entry)
    name = bytes(entry[ENTRY_BYTES : ENTRY_BYTES + name_bytes])
    extra = bytes(entry[ENTRY_BYTES + name_bytes : ENTRY_BYTES + name_bytes + extra_bytes])
    size, stored, offset = _widen(extra, [size, stored, offset])
    return ZipMember(decode_name(name), method, bool(flags & 1), crc, stored, size, offset)


def _widen(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that did not fit 32 bits by those of the zip64 field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = list(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
        position += 4 + length
    return values
