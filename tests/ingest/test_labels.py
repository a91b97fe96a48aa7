"""Labels become targets, targets are shared between crops, and a head's output meets its part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deltactl.datasets.kitti import depth_metres, garg_crop
from deltactl.datasets.known import data_set, labelled_set, video_set
from deltactl.errors import ConfigError, SourceError
from deltactl.evaluate.protocol.head_output import fit_to_label
from deltactl.ingest.shards.labels import check_label, split_target

LENGTHS = st.integers(2, 60)


def test_vspw_values_move_down_by_one_and_void_is_ignored() -> None:
    label = np.array([[0, 1, 2, 124, 125, 254, 255]], np.uint8)
    assert labelled_set("vspw").target(label).tolist() == [[255, 0, 1, 123, 255, 255, 255]]


def test_cityscapes_has_nineteen_train_ids() -> None:
    label = np.arange(256, dtype=np.uint8)[None]
    ids = labelled_set("cityscapes").target(label)[0]
    assert ids[7] == 0  # road
    assert ids[26] == 13  # car
    assert ids[33] == 18  # bicycle
    assert ids[[0, 1, 9, 14, 29, 34, 255]].tolist() == [255] * 7
    assert sorted(ids[ids != 255]) == list(range(19))


def test_depth_counts_inside_the_garg_crop_and_between_a_millimetre_and_eighty_metres() -> None:
    label = np.full((375, 1242), 256 * 10, np.uint16)
    label[23 + 200, 13 + 600] = 0
    label[23 + 200, 13 + 601] = 256 * 80
    label[23 + 200, 13 + 602] = 256 * 80 - 1
    depth = depth_metres(label)
    assert depth.shape == (352, 1216)
    assert depth[200, 599:603].tolist() == [10.0, 0.0, 0.0, pytest.approx(79.996, abs=1e-3)]
    counted = np.nonzero(depth)
    assert (counted[0].min(), counted[0].max(), counted[1].min(), counted[1].max()) == (143, 348, 43, 1171)
    assert garg_crop(352, 1216).sum() == (349 - 143) * (1172 - 43)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no data set 'ade'; known: kinetics, .*kitti"):
        data_set("ade")
    with pytest.raises(ConfigError, match="folder has no labels"):
        labelled_set("folder")
    with pytest.raises(ConfigError, match="vspw says itself which clips it has"):
        video_set("vspw")


@pytest.mark.parametrize(
    ("dataset", "label", "problem"),
    [
        ("vspw", np.zeros((4, 6), np.uint16), "expected one channel of 8 bits"),
        ("kitti", np.zeros((4, 6), np.uint8), "expected one channel of 16 bits"),
        ("cityscapes", np.zeros((4, 6, 3), np.uint8), "expected one channel of 8 bits"),
        ("cityscapes", np.zeros((4, 7), np.uint8), "4 × 7 pixels but its frame is 4 × 6"),
    ],
)
def test_a_label_of_another_depth_or_size_is_named(dataset: str, label: np.ndarray, problem: str) -> None:
    with pytest.raises(SourceError, match=rf"label a/b\.png .*{problem}"):
        check_label(label, labelled_set(dataset).label_bits, (4, 6), "a/b.png")


@given(LENGTHS, LENGTHS, st.booleans(), st.booleans())
def test_each_pixel_of_a_label_counts_in_one_part_only(height: int, width: int, wide: bool, depth: bool) -> None:
    rng = np.random.default_rng(height * 100 + width)
    kind, nothing = (np.float32, 0) if depth else (np.uint8, 255)
    target = rng.integers(1, 100, (height, width)).astype(kind)
    parts = split_target(target, (64, 100) if wide else (100, 64))
    assert len(parts) == 2
    assert parts[0].shape == parts[1].shape
    assert parts[0].dtype == kind
    values = np.concatenate([part[part != nothing] for part in parts])
    assert sorted(values) == sorted(target.ravel())
    odd = (width if wide else height) % 2
    padding = parts[0][:, -1] if wide else parts[0][-1]
    assert bool((padding == nothing).all()) == bool(odd)


def test_a_square_frame_has_its_whole_label() -> None:
    target = np.zeros((7, 7), np.uint8)
    assert split_target(target, (64, 64)) == (target,)


@pytest.mark.parametrize("crop", [0, 1])
def test_outputs_of_overlapping_crops_keep_their_own_end(crop: int) -> None:
    output = torch.randn(2, 3, 4, 4)
    square = F.interpolate(output, size=(67, 67), mode="bilinear", align_corners=False)
    wide = fit_to_label(output, (67, 61), (64, 116), crop)
    assert torch.equal(wide, square[..., :61] if crop == 0 else square[..., -61:])
    tall = fit_to_label(output, (61, 67), (116, 64), crop)
    assert torch.equal(tall, square[..., :61, :] if crop == 0 else square[..., -61:, :])


@pytest.mark.parametrize("crop", [0, 1])
def test_outputs_of_crops_side_by_side_are_resized_straight_to_the_part(crop: int) -> None:
    output = torch.randn(2, 3, 4, 4)
    expected = F.interpolate(output, size=(352, 608), mode="bilinear", align_corners=False)
    assert torch.equal(fit_to_label(output, (352, 608), (64, 128), crop), expected)


def test_the_output_of_a_square_frame_covers_the_whole_label() -> None:
    output = torch.randn(1, 3, 4, 4)
    expected = F.interpolate(output, size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(fit_to_label(output, (64, 64), (64, 64), 0), expected)
