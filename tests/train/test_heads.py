"""The task heads meet the golden vectors and their definition."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from golden_vectors import BAR, GOLDEN, cases, distance, filled, weights_of
from torch import Tensor, nn
from torch.nn import functional as F

from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.networks.heads import DepthHead, LinearHeadConfig, SegmentationHead
from deltactl.train.networks.rgb_head import RGBHead, RGBHeadConfig

TINY = RGBHeadConfig(dim=128, width=64, depth=2, heads=4, mlp_width=96, grid=4)


@pytest.fixture(scope="module")
def first_frame() -> Tensor:
    return cases()["features"][:, 0].mT.unflatten(-1, (4, 4))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vspw", SegmentationHead(LinearHeadConfig(128, 124))),
        ("cityscapes", SegmentationHead(LinearHeadConfig(128, 19))),
        ("kitti", DepthHead(LinearHeadConfig(128, 256))),
    ],
)
def test_heads_meet_the_golden_vectors(name: str, head: nn.Module, first_frame: Tensor) -> None:
    assert distance(filled(head, f"head_{name}")(first_frame), cases()[f"head.{name}"]) < BAR


def test_rgb_head_meets_the_golden_vectors(first_frame: Tensor) -> None:
    backbone = Backbone.load(GOLDEN / "backbone", device="cpu")
    assert distance(filled(RGBHead(TINY), "head_rgb")(first_frame, backbone), cases()["head.rgb"]) < BAR


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vspw", SegmentationHead(LinearHeadConfig(128, 124))),
        ("kitti", DepthHead(LinearHeadConfig(128, 256))),
        ("rgb", RGBHead(TINY)),
    ],
)
def test_parameter_names_and_their_order_are_the_published_ones(name: str, head: nn.Module) -> None:
    assert list(head.state_dict()) == list(weights_of(f"head_{name}"))


def test_depth_is_a_mean_of_bins_between_one_millimetre_and_eighty_metres() -> None:
    head = DepthHead(LinearHeadConfig(8, 4)).eval()
    features = torch.randn(2, 8, 3, 5)
    logits = F.conv2d(F.batch_norm(features, torch.zeros(8), torch.ones(8)), head.head.weight, head.head.bias)
    weights = logits.clamp_min(0) + 0.1
    bins = torch.tensor([1e-3, 1e-3 + (80 - 1e-3) / 3, 1e-3 + 2 * (80 - 1e-3) / 3, 80.0])
    expected = (weights * bins[None, :, None, None]).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    depth = head(features)
    assert depth.shape == (2, 1, 3, 5)
    torch.testing.assert_close(depth, expected)


def test_depth_is_summed_in_float32_under_autocast() -> None:
    head = DepthHead(LinearHeadConfig(8, 256)).eval()
    features = torch.randn(2, 8, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        depth = head(features)
    assert depth.dtype == torch.float32
    assert distance(depth, head(features)) < 2e-2


def identity(dim: int) -> SimpleNamespace:
    return SimpleNamespace(
        norm_weight=torch.ones(dim), norm_bias=torch.zeros(dim), image_mean=torch.zeros(3), image_std=torch.ones(3)
    )


def test_pictures_are_laid_out_by_row_column_and_channel_of_each_patch() -> None:
    config = replace(TINY, patch_size=2, depth=1)
    head = RGBHead(config).eval()
    with torch.no_grad():
        head.decoder_pred.weight.zero_()
        head.decoder_pred.bias.copy_(torch.arange(12.0))
    picture = head(torch.randn(1, 128, 2, 3), identity(128))
    assert picture.shape == (1, 3, 4, 6)
    # within a patch: row, column, channel count up
    assert picture[0, :, 0, 0].tolist() == [0, 1, 2]
    assert picture[0, :, 0, 1].tolist() == [3, 4, 5]
    assert picture[0, :, 1, 0].tolist() == [6, 7, 8]
    assert torch.equal(picture[..., :2, :2], picture[..., 2:, 4:])


def test_positions_of_another_grid_are_resized_bicubically() -> None:
    head = filled(RGBHead(TINY), "head_rgb")
    found = head._positions(6, 3)
    learned = head.decoder_pos_embed[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(learned, size=(6, 3), mode="bicubic", align_corners=False)
    assert torch.equal(found[:, :1], head.decoder_pos_embed[:, :1])
    torch.testing.assert_close(found[0, 1:], expected[0].permute(1, 2, 0).reshape(18, 64))


def test_rgb_head_undoes_the_backbones_normalisations() -> None:
    head = filled(RGBHead(TINY), "head_rgb")
    features, backbone = torch.randn(1, 128, 4, 4), identity(128)
    backbone.norm_weight, backbone.norm_bias = 1 + torch.rand(128), torch.randn(128)
    backbone.image_mean, backbone.image_std = torch.rand(3), 1 + torch.rand(3)
    normed = features * backbone.norm_weight[:, None, None] + backbone.norm_bias[:, None, None]
    plain = head(features, identity(128))
    expected = plain * backbone.image_std[:, None, None] + backbone.image_mean[:, None, None]
    assert distance(head(normed, backbone), expected) < 1e-5


def test_published_rgb_head_has_the_size_of_a_vit_of_28_blocks_of_1152() -> None:
    with torch.device("meta"):
        head = RGBHead()
    block = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4096 + 4096 + 1152 + 4 * 1152
    ends = (768 + 1) * 1152 + (1 + 1 + 256) * 1152 + 2 * 1152 + (1152 + 1) * 768
    assert sum(p.numel() for p in head.parameters()) == 28 * block + ends


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match="heads is 5, expected a divisor of the width 64"):
        replace(TINY, heads=5)
