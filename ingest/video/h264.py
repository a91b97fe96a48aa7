"""What the header of an H.264 stream says of all its pictures (ITU-T H.264, 7.3.2.1.1).

Takes the decoder's configuration as MP4 and Matroska keep it; returns whether pictures may be fields, and how many bits
the count of pictures takes. A stream can begin with whole frames and go on with fields, so its first frame does not
tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose header also tells of chroma, depth and scaling."""


class Bits:
    """Reads numbers from the bits of a header, first the highest."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits.

        Raises:
            EOFError: fewer are left.
        """
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
    """Return whether the configuration (`avcC`) allows pictures that are fields; True also if it cannot be read."""
    try:
        return not all(_frames_only(unit) for unit in parameter_sets(configuration))
    except (EOFError, IndexError):
        return True


def parameter_sets(configuration: bytes) -> Iterator[bytes]:
    """Yield the sequence parameter sets of a configuration (`avcC`); IndexError if it is too short to hold any."""
    position = 6
    for _ in range(configuration[5] & 31):
        size = int.from_bytes(configuration[position : position + 2], "big")
        yield configuration[position + 2 : position + 2 + size]
        position += 2 + size


def payload(unit: bytes) -> bytes:
    """Return what a unit says: the third byte of 0 0 3 only keeps a start code from appearing (7.4.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _frames_only(unit: bytes) -> bool:
    """Return `frame_mbs_only_flag` of a sequence parameter set."""
    bits = _after_chroma(unit)
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


def _after_chroma(unit: bytes) -> Bits:
    """Return the bits of a sequence parameter set from `log2_max_frame_num` on."""
    unit = payload(unit)
    bits = Bits(unit[4:])
    bits.unsigned()
    if unit[1] in HIGH_PROFILES:
        _skip_high(bits)
    return bits


def long_frame_numbers(units: Sequence[bytes]) -> int:
    """Return how many bits `frame_num` takes by the sequence parameter sets of a stream.

    Raises:
        EOFError: the sets cannot be read, differ, or allow pictures that are fields, whose numbers come twice.
    """
    found = {_after_chroma(unit).unsigned() + 4 for unit in units if _frames_only(unit)}
    if len(found) != 1 or not all(_frames_only(unit) for unit in units):
        raise EOFError("no single count of pictures")
    return found.pop()


def _skip_high(bits: Bits) -> None:
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


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
