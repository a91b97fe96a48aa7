"""Image files are decoded whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.errors import SourceError
from deltactl.ingest.shards.images import check_complete, decode_frame_file

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encode(suffix: str, frame: np.ndarray = FRAME) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


PNG, JPEG = encode(".png"), encode(".jpg")


def test_a_png_is_rgb_and_equal_to_what_was_encoded() -> None:
    np.testing.assert_array_equal(decode_frame_file(PNG, "a.png"), FRAME)


def test_grey_and_16_bit_pictures_become_rgb_bytes() -> None:
    done, data = cv2.imencode(".png", np.full((4, 5), 200 * 256, np.uint16))
    assert done
    frame = decode_frame_file(data.tobytes(), "grey.png")
    assert (frame.shape, frame.dtype) == ((4, 5, 3), np.uint8)
    assert int(frame.min()) == int(frame.max()) == 200


def test_exif_rotation_is_ignored() -> None:
    # An EXIF block with orientation 6 (turn by 90 degrees), right after the JPEG's start marker.
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    block = b"Exif\x00\x00" + tiff
    turned = JPEG[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2) + block + JPEG[2:]
    np.testing.assert_array_equal(decode_frame_file(turned, "t.jpg"), decode_frame_file(JPEG, "a.jpg"))


@pytest.mark.parametrize(
    ("side", "said"), [(8200, "claims to be 8200 × 8200 pixels"), (60_000, "is larger than 67,108,864 pixels")]
)
def test_a_few_bytes_that_claim_to_be_a_huge_picture_are_refused(side: int, said: str) -> None:
    header = b"IHDR" + struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND")
    data = PNG[:8] + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    with pytest.raises(SourceError, match=f"frame bomb.png {said}"):
        decode_frame_file(data, "bomb.png")


@given(st.integers(0, len(PNG) - 1))
def test_a_truncated_png_is_refused(length: int) -> None:
    with pytest.raises(SourceError, match=r"^a\.png is "):
        decode_frame_file(PNG[:length], "a.png")


@given(st.integers(0, len(JPEG) - 1))
def test_a_truncated_jpeg_is_refused(length: int) -> None:
    with pytest.raises(SourceError, match=r"^a\.jpg is "):
        decode_frame_file(JPEG[:length], "a.jpg")


@given(st.integers(0, len(PNG) * 8 - 1))
def test_one_flipped_bit_of_a_png_is_noticed(bit: int) -> None:
    damaged = bytearray(PNG)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SourceError):
        decode_frame_file(bytes(damaged), "a.png")


def test_padding_behind_a_jpeg_is_no_damage() -> None:
    check_complete(JPEG + b"\0" * 512, "padded.jpg")


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    for data in (b"GIF89a", b"not an image", b"\xff\xd8\xff\xe0" + b"\xff\xd9" * 4):
        with pytest.raises(SourceError, match=r"x/y\.jpg"):
            decode_frame_file(data, "x/y.jpg")
