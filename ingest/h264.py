"""What the header of an H.264 stream says of all its pictures (ITU-T H.264, 7.3.2.1.1).

In comes the decoder's configuration as MP4 and Matroska keep it; out comes whether pictures may be fields. A stream can
begin with whole frames and go on with fields, so that its first frame does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator

HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose header also tells of chroma, depth and scaling."""


class _Bits:
    """Reads numbers from the bits of a header, first the highest."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits; EOFError where there are fewer."""
        self._left -= count
        if self._left < 0:
            raise EOFError("the header of the stream ends too early")
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Return the next number in Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Return the next number in signed Exp-Golomb code."""
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def may_have_fields(configuration: bytes) -> bool:
    """Return whether the configuration (`avcC`) allows pictures that are fields; True also where it cannot be read."""
    try:
        return not all(_frames_only(unit) for unit in _sequence_headers(configuration))
    except (EOFError, IndexError):
        return True


def _sequence_headers(configuration: bytes) -> Iterator[bytes]:
    position = 6
    for _ in range(configuration[5] & 31):
        size = int.from_bytes(configuration[position : position + 2], "big")
        # The third byte of 0 0 3 is there so that no start code comes about.
        yield configuration[position + 2 : position + 2 + size].replace(b"\0\0\3", b"\0\0")
        position += 2 + size


def _frames_only(unit: bytes) -> bool:
    """Return `frame_mbs_only_flag` of a sequence parameter set."""
    profile = unit[1]
    bits = _Bits(unit[4:])
    bits.unsigned()
    if profile in HIGH_PROFILES:
        _skip_high(bits)
    bits.unsigned()  # log2_max_frame_num
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()  # frames that may be referred to
    bits.take(1)
    bits.unsigned()  # width
    bits.unsigned()  # height
    return bool(bits.take(1))


def _skip_high(bits: _Bits) -> None:
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    bits.unsigned()
    bits.unsigned()
    bits.take(1)
    if bits.take(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling(bits, 16 if number < 6 else 64)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
