"""The losses are what they are called, in float32, without overflow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deltactl.train.networks.losses import log_cosh, smooth_l1, smooth_l1_each

differences = st.floats(min_value=-1e3, max_value=1e3, width=32)


@given(differences)
def test_log_cosh_is_the_logarithm_of_the_hyperbolic_cosine(difference: float) -> None:
    # log cosh d = |d| + log(1 + exp(−2|d|)) − log 2, in Python's float64
    expected = abs(difference) + math.log1p(math.exp(-2 * abs(difference))) - math.log(2)
    found = log_cosh(torch.tensor([difference]), torch.zeros(1)).item()
    assert found == pytest.approx(expected, rel=1e-5, abs=2e-7)


def test_log_cosh_is_the_mean_over_everything() -> None:
    prediction, target = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = torch.log(torch.cosh((prediction - target).double())).mean()
    assert log_cosh(prediction, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("difference", [0.0, 1e-20, 1e4, -1e4])
def test_log_cosh_and_its_gradient_stay_finite(difference: float) -> None:
    prediction = torch.tensor([difference], requires_grad=True)
    loss = log_cosh(prediction, torch.zeros(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert prediction.grad is not None
    assert prediction.grad.item() == pytest.approx(math.tanh(difference), abs=1e-6)


@given(differences)
def test_smooth_l1_turns_from_parabola_to_line_at_a_tenth(difference: float) -> None:
    size = abs(difference)
    expected = size**2 / 0.2 if size < 0.1 else size - 0.05
    found = smooth_l1(torch.tensor([difference]), torch.zeros(1)).item()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_the_loss_of_each_vector_averages_to_the_loss_of_all() -> None:
    prediction, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 5)
    each = smooth_l1_each(prediction, target)
    assert each.shape == (2, 3, 4)
    torch.testing.assert_close(each.mean(), smooth_l1(prediction, target.expand_as(prediction)))


@pytest.mark.parametrize("loss", [log_cosh, smooth_l1])
def test_losses_of_half_precision_predictions_are_computed_in_float32(loss: object) -> None:
    assert callable(loss)
    prediction: Tensor = torch.randn(64).bfloat16()
    target = prediction.float() + 1e-3  # lost in bf16, whose steps near 1 are 8e-3
    found = loss(prediction, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(prediction.float(), target))
    assert found > 0
