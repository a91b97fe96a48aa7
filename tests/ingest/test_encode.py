"""Kept frames: aspect kept, never enlarged, shrunk only where no crop needs the pixels; files kept as they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import SourceError
from deltactl.ingest.shards.geometry import kept_size
from deltactl.ingest.shards.images import decode_frame, decode_plain
from deltactl.ingest.video.encode import FrameEncoder

sizes = st.integers(1, 5000)


@given(sizes, sizes, st.integers(16, 1000))
def test_frames_are_never_enlarged_and_keep_their_aspect(height: int, width: int, size: int):
    kept, short_side = kept_size(height, width, FrameSize.of(size)), round(1.3 * size)
    assert kept[0] <= height
    assert kept[1] <= width
    if min(height, width) <= short_side:
        assert kept == (height, width)
    else:
        assert min(kept) == short_side
        assert abs(max(kept) - max(height, width) * short_side / min(height, width)) <= 0.5


@given(sizes, sizes, st.integers(16, 1000), st.integers(16, 1000))
def test_frames_kept_for_a_rectangle_serve_both_of_its_sides(height: int, width: int, rows: int, columns: int):
    kept, least = kept_size(height, width, FrameSize(rows, columns)), (round(1.3 * rows), round(1.3 * columns))
    if kept == (height, width):
        assert height <= least[0] or width <= least[1], "it could have been shrunk"
    else:
        assert kept[0] < height
        assert kept[1] < width
        assert kept[0] >= least[0]
        assert kept[1] >= least[1]
        assert kept[0] == least[0] or kept[1] == least[1], "and no further than that"
        scale = max(least[0] / height, least[1] / width)
        assert abs(kept[0] - height * scale) <= 0.5
        assert abs(kept[1] - width * scale) <= 0.5


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference in brightness; JPEG keeps colour at half the resolution."""
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(int) for image in (first, second)]
    return float(np.abs(grey[0] - grey[1]).mean())


def test_a_large_frame_is_shrunk_once_and_stays_the_same_picture():
    image = picture(300, 480)
    encoder = FrameEncoder(FrameSize.of(100), 95)
    encoder.add(0, image)
    stored = decode_frame(encoder.encoded[0])
    assert stored.shape == (130, 208, 3)
    assert encoder.size == (300, 480)
    expected = cv2.resize(image, (208, 130), interpolation=cv2.INTER_LINEAR)
    assert difference(stored, expected) < 2


def test_quality_decides_the_bytes():
    image = picture(96, 160)
    sizes = []
    for quality in (50, 80, 95):
        encoder = FrameEncoder(FrameSize.of(512), quality)
        encoder.add(0, image)
        sizes.append(len(encoder.encoded[0]))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_frames_of_different_sizes_in_one_video_are_refused():
    encoder = FrameEncoder(FrameSize.of(512), 95)
    encoder.add(0, picture(96, 160))
    with pytest.raises(SourceError, match="frame 7 has 96 × 128 pixels, earlier ones 96 × 160"):
        encoder.add(7, picture(96, 128))


def test_a_jpeg_file_that_needs_no_shrinking_is_kept_byte_for_byte():
    data = cv2.imencode(".jpg", picture(96, 160))[1].tobytes()
    encoder = FrameEncoder(FrameSize.of(512), 30)
    encoder.add_file(3, data, "frame_0.jpg")
    assert encoder.encoded == {3: data}
    assert encoder.size == (96, 160)


def test_other_files_are_encoded_anew():
    image = picture(96, 160)
    encoder = FrameEncoder(FrameSize.of(512), 95)
    encoder.add_file(0, cv2.imencode(".png", image)[1].tobytes(), "frame_0.png")
    assert encoder.encoded[0].startswith(b"\xff\xd8")
    assert difference(decode_frame(encoder.encoded[0]), image[..., ::-1]) < 2
    large = FrameEncoder(FrameSize.of(32), 95)
    large.add_file(0, cv2.imencode(".jpg", image)[1].tobytes(), "frame_0.jpg")
    assert decode_frame(large.encoded[0]).shape == (42, 70, 3)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(damage: str):
    data = cv2.imencode(".jpg", picture(96, 160))[1].tobytes()
    damaged = {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello"}[damage]
    with pytest.raises(SourceError, match=r"frame_0\.jpg"):
        FrameEncoder(FrameSize.of(512), 95).add_file(0, damaged, "frame_0.jpg")


def test_where_nothing_is_kept_frames_stay_whole_and_exact() -> None:
    encoder = FrameEncoder(None, 95)
    image = np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8)
    encoder.add(7, image)
    assert encoder.frame_format == "ppm"
    assert np.array_equal(decode_plain(encoder.encoded[7]), image)
    assert encoder.size == (300, 451)
    with pytest.raises(SourceError, match="frame 8 has 2 × 3 pixels, earlier ones 300 × 451"):
        encoder.add(8, image[:2, :3])
