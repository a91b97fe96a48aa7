"""DINO-world, the baseline, meets the golden vectors and its definition."""

from __future__ import annotations

import pytest
import torch
from golden_vectors import BAR, GRID, awake, cases, dinoworld, distance, weights_of
from plain_networks import dino_predict
from torch import Tensor

from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig
from deltactl.train.networks.losses import smooth_l1

TINY = DinoWorldConfig(feature_dim=64, width=128, depth=2, heads=2)
WIDE = (2, 3)
"""A grid that is not square."""


def network() -> DinoWorld:
    return awake(DinoWorld(TINY))


def clip(frames: int = 4, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = 0.04 + 0.29 * torch.rand(batch, frames, generator=generator)
    features = torch.randn(batch, frames, WIDE[0] * WIDE[1], 64, generator=generator)
    return features, steps.cumsum(1) - steps[:, :1]


def test_training_predictions_and_rollouts_meet_the_golden_vectors() -> None:
    golden, model = cases(), dinoworld()
    features, times = golden["features"], golden["timestamps"]
    assert distance(model(features, times, GRID), golden["dinoworld.train_pred"]) < BAR
    found = model.rollout(features[:, :3], times[:, :3], times[:, 3:], GRID)
    assert distance(found, golden["dinoworld.rollout"][:, 0]) < BAR


def test_parameter_names_and_their_order_are_the_published_ones() -> None:
    assert list(dinoworld().state_dict()) == list(weights_of("dinoworld"))


def test_training_predictions_follow_the_definition_on_frames_that_are_not_square() -> None:
    model, (features, times) = network(), clip()
    found = model(features, times, WIDE)
    for b in range(2):
        for t in range(1, 4):
            expected = dino_predict(model.state_dict(), features[b, :t], times[b, :t], times[b, t], WIDE)
            assert distance(found[b, t - 1], expected) < 2e-5


def test_rollouts_follow_the_definition_from_their_own_predictions() -> None:
    model, (features, times) = network(), clip()
    found = model.rollout(features[:, :2], times[:, :2], times[:, 2:], WIDE)
    for b in range(2):
        known = features[b, :2]
        for step in range(2):
            expected = dino_predict(model.state_dict(), known, times[b, : 2 + step], times[b, 2 + step], WIDE)
            assert distance(found[b, step], expected) < 2e-5
            known = torch.cat((known, found[b, step, None]))


def test_a_patch_sees_the_patches_of_earlier_frames_only() -> None:
    model, (features, times) = network(), clip()
    before = model(features, times, WIDE)
    for t in range(4):
        changed = features.clone()
        changed[:, t] += 1
        after = model(changed, times, WIDE)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not (t < 3 and torch.isclose(after[:, t:], before[:, t:]).all(-1).any())


def test_every_parameter_gets_a_finite_gradient() -> None:
    model, (features, times) = network(), clip()
    smooth_l1(model(features, times, WIDE), features[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_a_rollout_keeps_no_gradients() -> None:
    model, (features, times) = network(), clip()
    assert not model.rollout(features[:, :3], times[:, :3], times[:, 3:], WIDE).requires_grad


def test_autocast_stays_within_two_hundredths_of_float32() -> None:
    model, (features, times) = network(), clip()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(features, times, WIDE)
    assert distance(found, model(features, times, WIDE)) < 2e-2


def test_a_grid_that_is_not_the_features_own_is_refused() -> None:
    model, (features, times) = network(), clip()
    with pytest.raises(ValueError, match="features have 6 patches, but a grid of 4 × 4 was given"):
        model(features, times, (4, 4))
