"""Positions: DINOv3's for patches, and time and place for the world models."""

from __future__ import annotations

import math

import pytest
import torch
from golden_vectors import BAR, cases, distance
from hypothesis import given
from hypothesis import strategies as st
from plain_networks import patch_angles, turn, turn_patches
from torch import Tensor
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from deltactl.train.networks.rope import (
    PatchRope,
    Rotation,
    rotate,
    rotation_of,
    space_time_rotation,
    time_rotation,
    two_frames,
)

CPU = torch.device("cpu")
seconds = st.floats(min_value=0, max_value=3, width=32)


def patch_tables(rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P, 64) of the patches alone."""
    return rotation.cos[1:, 0, 0].repeat(1, 2), rotation.sin[1:, 0, 0].repeat(1, 2)


def test_patch_positions_are_the_golden_ones() -> None:
    cos, sin = patch_tables(PatchRope().eval()((4, 4), CPU))
    assert distance(cos, cases()["rope_cos"]) < BAR
    assert distance(sin, cases()["rope_sin"]) < BAR


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 16), (13, 37), (32, 64)])
@pytest.mark.parametrize("training", [False, True])
def test_patch_positions_are_the_librarys_bit_for_bit(grid: tuple[int, int], training: bool) -> None:
    config = DINOv3ViTConfig(hidden_size=64, num_attention_heads=1, patch_size=1, pos_embed_rescale=2.0)
    library = DINOv3ViTRopePositionEmbedding(config).train(training)
    torch.manual_seed(3)
    expected = library(torch.empty(1, 1, *grid))
    torch.manual_seed(3)
    found = patch_tables(PatchRope().train(training)(grid, CPU))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 16), (32, 64)])
def test_patch_positions_follow_their_formula_on_any_grid(grid: tuple[int, int]) -> None:
    cos, sin = patch_tables(PatchRope().eval()(grid, CPU))
    torch.testing.assert_close(cos, patch_angles(grid).cos(), rtol=0, atol=2e-6)
    torch.testing.assert_close(sin, patch_angles(grid).sin(), rtol=0, atol=2e-6)


def test_in_training_one_draw_rescales_all_coordinates() -> None:
    rope = PatchRope().train()
    for seed in range(20):
        torch.manual_seed(seed)
        factor = torch.empty(1).uniform_(-math.log(2), math.log(2)).exp().item()
        torch.manual_seed(seed)
        cos, sin = patch_tables(rope((3, 5), CPU))
        assert 0.5 <= factor <= 2
        torch.testing.assert_close(cos, patch_angles((3, 5), factor).cos(), rtol=0, atol=4e-6)
        torch.testing.assert_close(sin, patch_angles((3, 5), factor).sin(), rtol=0, atol=4e-6)


@pytest.mark.parametrize(("augment", "training"), [(True, False), (False, True), (False, False)])
def test_nothing_is_random_in_eval_mode_or_with_the_augmentation_off(augment: bool, training: bool) -> None:
    rope = PatchRope(augment).train(training)
    before = torch.get_rng_state()
    cos, _ = patch_tables(rope((3, 5), CPU))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(cos, patch_angles((3, 5)).cos(), rtol=0, atol=2e-6)


def test_the_token_in_front_is_not_rotated_and_both_frames_lie_in_the_same_place() -> None:
    rotation = two_frames(PatchRope().eval()((2, 3), CPU))
    x = torch.randn(1, 1 + 2 * 6, 2, 64)
    turned = rotate(x, rotation)
    assert torch.equal(turned[:, 0], x[:, 0])
    angles = torch.cat((patch_angles((2, 3)), patch_angles((2, 3))))
    for head in range(2):
        torch.testing.assert_close(turned[:, :, head], turn_patches(x[:, :, head], angles))


def test_coordinates_cached_in_inference_mode_do_not_stop_later_training() -> None:
    rope = PatchRope().train()
    with torch.inference_mode():
        rope((6, 7), CPU)
    x = torch.randn(1, 43, 1, 64, requires_grad=True)
    rotate(x, rope((6, 7), CPU)).square().sum().backward()
    assert x.grad is not None


@given(time=seconds)
def test_time_turns_sixty_entries_and_leaves_four(time: float) -> None:
    x = torch.randn(1, 1, 1, 2, 64)
    turned = rotate(x, time_rotation(torch.tensor([[time]])))
    assert torch.equal(turned[..., 60:], x[..., 60:])
    for head in range(2):
        torch.testing.assert_close(turned[0, 0, 0, head], turn(x[0, 0, 0, head], (time,)), rtol=0, atol=1e-5)


@given(time=seconds, grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), data=st.data())
def test_a_patch_turns_with_time_column_and_row(time: float, grid: tuple[int, int], data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    y, x = (-1 + 2 * place / max(1, count - 1) for place, count in ((row, grid[0]), (column, grid[1])))
    head = torch.randn(64)
    patches = head.expand(1, 1, grid[0] * grid[1], 1, 64)
    turned = rotate(patches, space_time_rotation(torch.tensor([[time]]), grid))
    expected = turn(head, (time, x, y))
    # linspace rounds the place in float32, and the fastest pair turns it by 628 rad
    torch.testing.assert_close(turned[0, 0, row * grid[1] + column, 0], expected, rtol=0, atol=3e-4)


@given(first=seconds, second=seconds, shift=st.floats(min_value=0, max_value=1, width=32))
def test_attention_depends_on_differences_of_time_only(first: float, second: float, shift: float) -> None:
    q, k = torch.randn(2, 1, 64)

    def product(a: float, b: float) -> float:
        turned = rotate(torch.stack((q, k)), rotation_of(torch.tensor([[a], [b]])))
        return float((turned[0] * turned[1]).sum())

    # 3 s turn the fastest pair 300 times: float32 keeps its angle to 2e-4
    assert product(first + shift, second + shift) == pytest.approx(product(first, second), abs=0.02)


def test_half_precision_is_rotated_in_float32() -> None:
    x = torch.randn(1, 1, 1, 1, 64).bfloat16()
    rotation = time_rotation(torch.tensor([[2.7]]))
    turned = rotate(x, rotation)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), rotation).bfloat16())


def test_positions_stay_float32_under_autocast() -> None:
    times = torch.tensor([[2.7]])
    with torch.autocast("cpu", torch.bfloat16):
        inside, patches = time_rotation(times), PatchRope().eval()((3, 5), CPU)
    assert torch.equal(inside.cos, time_rotation(times).cos)
    assert torch.equal(patches.cos, PatchRope().eval()((3, 5), CPU).cos)
