"""Cropping and resizing on the device agree with OpenCV to one level."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.views import View, training_view
from deltactl.ingest.shards.geometry import Box


def reference(frames: np.ndarray, view: View, size: int) -> np.ndarray:
    box = view.crop
    cut = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    resized = np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in cut])
    return resized[:, :, ::-1] if view.flip else resized


def check(frames: np.ndarray, view: View, size: int, device: str = "cpu") -> None:
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).to(device)
    ours = crop_resize(planes, view, FrameSize.of(size)).cpu().permute(0, 2, 3, 1).numpy()
    assert ours.shape == (len(frames), size, size, 3)
    assert np.abs(ours.astype(int) - reference(frames, view, size)).max() <= 1


@given(
    seed=st.integers(0, 1000), height=st.integers(16, 120), width=st.integers(16, 120), size=st.sampled_from([32, 48])
)
@settings(max_examples=60, deadline=None)
def test_any_view_of_noise_agrees_with_opencv(seed: int, height: int, width: int, size: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    check(frames, training_view(seed, "clip", 0, height, width), size)


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (96, 96), (65, 97)])
def test_halving_and_odd_ratios_agree_too(shape: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    check(frames, View(Box(0, 0, *shape), False), 64)


def test_a_crop_of_the_right_size_is_cut_and_not_touched() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    out = crop_resize(torch.from_numpy(frames).permute(0, 3, 1, 2), View(Box(0, 32, 64, 64), False), FrameSize.of(64))
    assert np.array_equal(out.permute(0, 2, 3, 1).numpy(), frames[:, :, 32:])


def test_a_crop_beyond_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond frames of 64 × 96"):
        crop_resize(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), View(Box(0, 40, 64, 64), False), FrameSize.of(64))


@pytest.mark.gpu
def test_the_gpu_agrees_with_opencv() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 360, 480, 3), dtype=np.uint8)
    for view in range(8):
        check(frames, training_view(0, "clip", view, 360, 480), 256, device="cuda")
