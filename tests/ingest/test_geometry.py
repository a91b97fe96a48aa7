"""Evaluation sizes and square crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.configs.frame_size import FrameSize
from deltactl.ingest.shards.geometry import (
    Box,
    bottom_centre,
    crops_overlap,
    cut,
    evaluation_size,
    resize,
    square_crops,
)

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("original", "stored"),
    [
        ((480, 853), (512, 910)),  # VSPW: 909.87 rounds up
        ((853, 480), (910, 512)),
        ((1024, 2048), (512, 1024)),  # Cityscapes
        ((352, 1216), (512, 1024)),  # KITTI: 1768 would be more than twice the short side
        ((480, 480), (512, 512)),
    ],
)
def test_the_short_side_becomes_the_size_and_the_long_side_at_most_twice_that(
    original: tuple[int, int], stored: tuple[int, int]
) -> None:
    assert evaluation_size(*original, FrameSize.of(512)) == stored


@given(SIDES, SIDES, st.integers(16, 1024))
def test_the_short_side_is_exact_and_the_aspect_kept_or_capped(height: int, width: int, size: int) -> None:
    stored = evaluation_size(height, width, FrameSize.of(size))
    assert min(stored) == size
    assert max(stored) <= 2 * size
    assert evaluation_size(width, height, FrameSize.of(size)) == stored[::-1]
    if max(stored) < 2 * size:
        assert abs(max(stored) - max(height, width) * size / min(height, width)) <= 0.5


@given(SIDES, SIDES)
def test_square_crops_cover_a_stored_frame_and_say_whether_they_overlap(height: int, width: int) -> None:
    height, width = evaluation_size(height, width, FrameSize.of(64))
    covered = np.zeros((height, width), int)
    boxes = square_crops(height, width)
    for box in boxes:
        assert box.height == box.width == 64
        cut(covered, box)[...] += 1
    assert covered.min() == 1
    assert len(boxes) == (1 if height == width else 2)
    if len(boxes) == 2:
        assert (covered.max() == 2) == crops_overlap(height, width)


def test_the_bottom_rows_and_centre_columns_of_a_kitti_frame() -> None:
    assert bottom_centre(375, 1242, 352, 1216) == Box(23, 13, 352, 1216)
    with pytest.raises(ValueError, match="300 × 1242"):
        bottom_centre(300, 1242, 352, 1216)


def test_frames_are_resized_as_opencv_does_it_on_bytes() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (67, 121, 3), np.uint8)
    expected = cv2.resize(frame, (116, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize(frame, 64, 116), expected)
    assert resize(frame, 67, 121) is frame
