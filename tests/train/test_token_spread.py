"""How widely tokens are spread: figures of sets of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from deltactl.tokenization.describe import TokenSample
from deltactl.train.steps.token_spread import distances, token_spread


def figures(tokens: torch.Tensor) -> tuple[float, float, float]:
    found = token_spread(tokens[:, None])
    return found["token_rank"].item(), found["token_spread"].item(), found["dead_dimensions"].item()


def test_equal_directions_count_all() -> None:
    """Plus and minus each of eight unit vectors, of sixteen: rank 8, mean zero, and half of the dimensions dead."""
    axes = torch.eye(16)[:8]
    assert figures(torch.cat([axes, -axes])) == pytest.approx((8, 1, 0.5), abs=1e-4)


def test_a_narrow_spread_around_a_mean() -> None:
    axes = torch.eye(16)[:8]
    around = torch.cat([axes, -axes]) + 10 * torch.eye(16)[8]
    assert figures(around) == pytest.approx((8, 1 / 101**0.5, 0.5), abs=1e-4)


def test_tokens_on_a_line_and_tokens_that_are_all_the_same() -> None:
    line = torch.arange(5.0)[:, None] * torch.ones(1, 4)
    assert figures(line)[0] == pytest.approx(1, abs=1e-3)
    assert figures(torch.ones(5, 4)) == (0, 0, 1)
    assert figures(torch.zeros(5, 4)) == (0, 0, 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_spread(value: float) -> None:
    tokens = torch.eye(4)
    tokens[1, 2] = value
    assert all(math.isnan(figure) for figure in figures(tokens))


def test_half_precision_is_computed_in_float32() -> None:
    tokens = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).half() * 100
    assert figures(tokens) == pytest.approx(figures(tokens.double().float()))


def test_the_nearest_neighbour_is_of_another_clip() -> None:
    """Within a clip all tokens are the same; clips lie on the corners of a square of side 1."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    tokens = corners[:, None].expand(4, 3, 2)
    nearest, pairs = distances(tokens)
    assert nearest.tolist() == pytest.approx([1.0] * 12)
    assert sorted(pairs.tolist()) == pytest.approx([1.0] * 4 + [2**0.5] * 2)
    assert token_spread(tokens)["token_nearest"].item() == pytest.approx(6 / (4 + 2 * 2**0.5))
    assert token_spread(tokens[:1])["token_nearest"].isnan(), "one sample has no other"
    assert token_spread(torch.ones(3, 2, 4))["token_nearest"] == 0, "all say the same"


def test_one_token_is_not_spread() -> None:
    assert TokenSample(torch.ones(1, 1, 4)).figures() == {"of a sample": "1 clips, 1 tokens"}
