"""Image files of frame folders, data sets and shards, decoded whole or not at all.

Takes the bytes of a JPEG or PNG file, returns uint8 RGB (`decode_frame_file` of what others wrote, `decode_frame` of
our own shards) or a label (`decode_label`). libjpeg fills the missing part of a truncated file with grey,
and some OpenCV versions return that as a picture; so the end of a JPEG and every checksum of a PNG are checked before
decoding. EXIF rotation is ignored: it would turn a frame away from its label.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
from jaxtyping import Shaped, UInt8

from deltactl.errors import SourceError

_PLAIN_HEADER = re.compile(rb"P6 (\d+) (\d+) 255\n")
"""Of a PPM."""
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 8192 * 8192
"""More than any camera's film."""


def decode_frame_file(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture in a JPEG or PNG file as RGB.

    Raises:
        SourceError: it is damaged or too large; the message names it.
    """
    import cv2

    check_complete(data, name)
    picture_size(data, f"frame {name}")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # dimensions that OpenCV refuses
        raise SourceError(f"frame {name} cannot be decoded ({error.err})") from error
    if picture is None:
        raise SourceError(f"frame {name} cannot be decoded as JPEG or PNG")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def check_complete(data: bytes, name: str) -> None:
    """Check that the bytes are a JPEG with its end, or a PNG whose chunks match their checksums.

    Raises:
        SourceError: they are not; the message names the file.
    """
    if not data:
        raise SourceError(f"{name} is empty")
    if data.startswith(JPEG_START):
        # Some cameras pad behind the end marker.
        if JPEG_END not in data[-4096:]:
            raise SourceError(f"{name} is truncated: a JPEG without its end marker")
    elif data.startswith(PNG_START):
        _check_png(data, name)
    else:
        raise SourceError(f"{name} is neither JPEG nor PNG")


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (height, width) of a JPEG or PNG as its header claims.

    Nothing is decoded: a few bytes can claim a picture that fills the memory.

    Raises:
        SourceError: the header cannot be read, or claims more than `MAX_PIXELS`.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(f"{name} is larger than {MAX_PIXELS:,} pixels, the most a picture may have") from error
    except (OSError, SyntaxError, ValueError, OverflowError, struct.error) as error:
        raise SourceError(f"{name} cannot be decoded ({error})") from error
    if width * height > MAX_PIXELS:
        raise SourceError(f"{name} claims to be {height} × {width} pixels, more than the {MAX_PIXELS:,} it may have")
    return height, width


def _check_png(data: bytes, name: str) -> None:
    """Walk the chunks (length, type, data, CRC-32; PNG specification, section 5.3) up to IEND."""
    view = memoryview(data)
    position, kind = len(PNG_START), b""
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4])
        end = position + 12 + length
        if position + 12 > len(data) or end > len(data):
            raise SourceError(f"{name} is truncated: a PNG without its last chunk")
        kind = bytes(view[position + 4 : position + 8])
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise SourceError(f"{name} is damaged: its chunk {kind!r} does not match its checksum")
        position = end


def decode_frame(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB image of a JPEG or PNG file.

    Raises:
        SourceError: it cannot be decoded.
    """
    import cv2

    try:
        picture_size(data, "it")
    except SourceError as error:
        raise SourceError(f"not an image: {error}") from error
    # The orientation was applied, or was none, when the frame was stored.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise SourceError(f"not an image: {error}") from error
    if image is None:
        raise SourceError(f"not an image ({len(data)} bytes)")
    return image


def encode_plain(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return RGB pixels as a plain frame, which `decode_plain` reads: nothing is lost, and nothing compressed."""
    height, width = image.shape[:2]
    return b"P6 %d %d 255\n%b" % (width, height, image.tobytes())


def decode_plain(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB pixels of what `encode_plain` returned."""
    header = _PLAIN_HEADER.match(data)
    assert header is not None, "not a plain frame"
    width, height = int(header[1]), int(header[2])
    return np.frombuffer(data, np.uint8, offset=header.end()).reshape(height, width, 3).copy()


def decode_label(data: bytes) -> Shaped[np.ndarray, "height width"]:
    """Return a label image as it was stored: uint8 (palette indices where it has a palette) or uint16.

    Raises:
        SourceError: it cannot be decoded, or has several channels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture_size(data, "it")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, SourceError) as error:
        raise SourceError(f"not a PNG label image: {error}") from error
    if values.ndim != 2 or mode not in ("L", "P", "I;16", "I", "1"):
        raise SourceError(f"a label image of mode {mode}; one channel of 8 or 16 bits was expected")
    return values.astype(np.uint16 if mode in ("I;16", "I") else np.uint8)
