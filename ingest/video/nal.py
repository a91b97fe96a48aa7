"""What a packet of H.264, HEVC or VVC holds, told from the heads of its units, without decoding.

Takes a packet; returns whether it holds a picture at all (7.4 of ITU-T H.264, H.265 and H.266), and whether a decoder
can begin there. Containers mark keyframes, and some mark too few or too many; the units know. Units are told apart by
their lengths, as MP4 and Matroska lay them out, or by start codes (MPEG-TS). Cost: 5 µs a packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltactl.ingest.video.h264 import Bits, long_frame_numbers, parameter_sets, payload

START_CODE = b"\0\0\1"
H264_SEI = 6
RECOVERY_POINT = 6
"""Type of the SEI message that says from where on pictures are right."""
INTRA_SLICES = frozenset({2, 4, 7, 9})


@dataclass(frozen=True)
class _Codec:
    """The numbers of a codec's unit types."""

    pictures: range
    entries: frozenset[int]
    """Pictures at which a decoder can begin: IDR, in HEVC and VVC also CRA (and BLA)."""
    leading: frozenset[int]
    """Pictures shown before the entry that precedes them, but decodable from it (RADL)."""
    others: frozenset[int]
    """What is known to be no picture: parameters, messages, filler, ends."""


CODECS = {
    "h264": _Codec(range(1, 6), frozenset({5}), frozenset(), frozenset(range(6, 14))),
    "hevc": _Codec(range(32), frozenset(range(16, 22)), frozenset({6, 7}), frozenset(range(32, 41))),
    "vvc": _Codec(range(12), frozenset({7, 8, 9}), frozenset({2}), frozenset({*range(12, 19), *range(20, 26)})),
}


@dataclass(frozen=True)
class PacketFacts:
    """What a packet holds."""

    picture: bool
    """False only if all of it is known to be no picture; true for what cannot be read."""
    entry: bool = False
    """Whether a decoder can begin here, knowing nothing of what came before."""
    resumes: bool = False
    """Whether pictures become right from here on: an entry, or in H.264 also an intra picture or a recovery point."""
    leading: bool = False
    """Whether its picture, though shown before the entry that precedes it, can be decoded from there."""


UNKNOWN = PacketFacts(True)


class PacketParser:
    """Reads the packets of one stream; `configuration` is the decoder's (PyAV's `extradata`)."""

    def __init__(self, codec: str, configuration: bytes) -> None:
        self.codec = codec
        self._numbers = CODECS[codec]
        self._configuration = configuration
        self._length_size = _length_size(codec, configuration)

    @property
    def by_lengths(self) -> bool:
        """Whether units are told apart by their lengths, as in MP4 and Matroska."""
        return self._length_size is not None

    def facts(self, data: bytes) -> PacketFacts:
        """Return what a packet holds."""
        recovers, others = False, 0
        for start, end in self._units(data):
            kind = self._kind(data, start, end)
            if kind in self._numbers.pictures:
                entry = kind in self._numbers.entries
                resumes = entry or (self.codec == "h264" and (recovers or _is_intra(data[start : start + 16])))
                return PacketFacts(True, entry, resumes, kind in self._numbers.leading)
            if kind not in self._numbers.others:
                return UNKNOWN
            others += 1
            recovers = recovers or (kind == H264_SEI and self.codec == "h264" and _recovers(data[start + 1 : end]))
        return PacketFacts(picture=not others)

    def leaves_others_whole(self, before: bytes | None, after: bytes | None) -> bool:
        """Return whether a packet of H.264 is missed by no other picture, judged by the pictures around it.

        Pictures that others refer to are counted (7.4.3, `frame_num`): if the count goes on, none is missing.
        """
        if after is None or self.facts(after).entry:
            return True
        if self.codec != "h264" or before is None:
            return False
        try:
            bits = long_frame_numbers(self._headers())
            (first, referred), (second, _) = self._frame_number(before, bits), self._frame_number(after, bits)
        except (EOFError, IndexError):
            return False
        return second == (first + referred) % (1 << bits)

    def _frame_number(self, data: bytes, bits: int) -> tuple[int, bool]:
        """Return `frame_num` of a picture, and whether others may refer to it; EOFError if it cannot be read."""
        for start, _ in self._units(data):
            if data[start] & 0x1F in self._numbers.pictures:
                head = Bits(payload(data[start + 1 : start + 24]))
                for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
                    head.unsigned()
                return head.take(bits), bool(data[start] & 0x60)
        raise EOFError("no picture")

    def _headers(self) -> list[bytes]:
        """Return the sequence parameter sets of H.264."""
        data = self._configuration
        if self._length_size is None:
            return [data[start:end] for start, end in _by_start_codes(data) if data[start] & 0x1F == 7]
        return list(parameter_sets(data))

    def _units(self, data: bytes) -> Iterator[tuple[int, int]]:
        return _by_start_codes(data) if self._length_size is None else _by_lengths(data, self._length_size)

    def _kind(self, data: bytes, start: int, end: int) -> int:
        """Return the type of a unit; -1 for one that is none."""
        if end <= start:
            return -1
        if self.codec == "h264":
            return data[start] & 0x1F
        if self.codec == "hevc":
            return data[start] >> 1 & 0x3F
        return data[start + 1] >> 3 if end - start > 1 else -1


def is_intra_mpeg4(data: bytes) -> bool:
    """Return whether a packet of MPEG-4 Part 2 holds a picture that refers to no other (ISO 14496-2, 6.2.5)."""
    at = data.find(START_CODE + b"\xb6")
    return 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 0


def _length_size(codec: str, configuration: bytes) -> int | None:
    """Return how many bytes the length of a unit takes; None if start codes part them."""
    if len(configuration) < 5 or configuration.startswith((START_CODE, b"\0" + START_CODE)):
        return None
    if codec == "vvc":
        return (configuration[0] >> 1 & 3) + 1
    offset = 4 if codec == "h264" else 21
    if configuration[0] != 1 or len(configuration) <= offset:
        return None
    return (configuration[offset] & 3) + 1


def _by_lengths(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each unit; an empty one if the lengths make no sense."""
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + size], "big")
        start = position + size
        if start + length > len(data):
            yield start, start
            return
        yield start, start + length
        position = start + length


def _by_start_codes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each unit."""
    at = data.find(START_CODE)
    while at >= 0:
        following = data.find(START_CODE, at + 3)
        end = len(data) if following < 0 else following
        yield at + 3, end
        at = following


def _is_intra(head: bytes) -> bool:
    """Return whether a slice of H.264 refers to no other picture, by the beginning of its unit."""
    bits = Bits(payload(head[1:]))
    try:
        bits.unsigned()  # first_mb_in_slice
        return bits.unsigned() in INTRA_SLICES
    except EOFError:
        return False


def _recovers(messages: bytes) -> bool:
    """Return whether there is a recovery point among supplemental messages of H.264 (7.3.2.3.1)."""
    position = 0
    while position + 2 < len(messages):
        numbers = []
        for _ in range(2):  # type and size
            number = 0
            while position < len(messages) and messages[position] == 255:
                number, position = number + 255, position + 1
            if position >= len(messages):
                return False
            number, position = number + messages[position], position + 1
            numbers.append(number)
        if numbers[0] == RECOVERY_POINT:
            return True
        position += numbers[1]
    return False
