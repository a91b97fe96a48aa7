"""Scores of surprise: distances as computed by hand, and ranks that are uniform where the model is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deltactl.evaluate.surprise.scoring import distances, rank_of_first, surprise_of

CHECKS = 20.5
"""Chi-squared with 9 degrees of freedom is above this in 1.5 % of cases; the draws are fixed."""


def ranks(samples: int, trials: int, *, shift: float = 0.0, spread: float = 1.0, width: int = 3) -> np.ndarray:
    """Return the ranks of what came from a normal distribution `shift` away and `spread` as wide as the samples'."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(trials):
        drawn = torch.randn(samples, width, generator=generator)
        came = shift + spread * torch.randn(width, generator=generator)
        found.append(surprise_of(came, drawn).rank)
    return np.array(found)


def chi_squared(found: np.ndarray, cells: int) -> float:
    counts = np.bincount(found, minlength=cells)
    expected = len(found) / cells
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("width", [1, 3, 40])
def test_ranks_are_uniform_where_what_came_is_one_more_sample(width: int) -> None:
    found = ranks(9, 3000, width=width)
    assert set(found) == set(range(10))
    assert chi_squared(found, 10) < CHECKS


def test_p_values_hold_their_level() -> None:
    p = (19 + 1 - ranks(19, 2000)) / (19 + 1)
    for level in (0.05, 0.1, 0.5):
        assert abs((p <= level + 1e-9).mean() - level) < 3 * math.sqrt(level * (1 - level) / 2000)


def test_what_lies_far_off_has_the_highest_rank_and_what_lies_in_the_middle_a_low_one() -> None:
    assert (ranks(9, 200, shift=50.0) == 9).all()
    assert ranks(9, 500, spread=0.1).mean() < 3.5
    assert ranks(9, 500, shift=1.5).mean() > 5.5


def test_overconfident_samples_make_everything_surprising() -> None:
    assert ranks(9, 500, spread=5.0).mean() > 7.5


def test_leaving_what_came_out_of_the_samples_others_would_not_be_calibrated() -> None:
    """The rule that seems simpler: nearest sample of what came, against the samples' nearest of the S − 1 others."""
    generator = torch.Generator().manual_seed(1)
    naive = []
    for _ in range(3000):
        apart = distances(torch.randn(10, 3, generator=generator))
        among = apart[1:, 1:] + np.diag(np.full(9, np.inf))
        naive.append(int((among.min(axis=1) < apart[0, 1:].min()).sum()))
    assert chi_squared(np.array(naive), 10) > 2 * CHECKS


def test_distances_are_those_of_the_evaluation() -> None:
    came = torch.tensor([[0.0, 0.05], [1.0, 0.0]])
    samples = torch.stack([torch.zeros(2, 2), came + 1, torch.full((2, 2), 9.0)])
    last = torch.zeros(2, 2)
    found = surprise_of(came, samples, last)
    zero = (0.0 + 0.05**2 / 0.2 + 0.95 + 0.0) / 4  # d² / 2β below β = 0.1, |d| − β / 2 above
    assert found.nearest == pytest.approx(zero)
    assert found.copy_last == pytest.approx(zero)
    mean = samples.mean(dim=0)
    assert found.mean == pytest.approx(float(((came - mean).abs() - 0.05).mean()), rel=1e-6)
    # What came and the first sample are nearest to each other; the second nearest of what came is nearer.
    assert (found.samples, found.rank, found.score, found.p) == (3, 0, 0.0, 1.0)
    assert found.excess == found.nearest - found.typical
    between = surprise_of(torch.tensor([2.0]), torch.tensor([[0.0], [0.5], [9.0]]))
    assert (between.rank, between.p) == (2, pytest.approx(0.5))
    assert between.score == pytest.approx(2 / 3)


def test_what_a_decoder_cannot_tell_does_not_count_in_the_rank_but_in_the_distance() -> None:
    """Samples and what came from one distribution, but what came has something besides that no sample can have."""
    generator = torch.Generator().manual_seed(2)
    found, bare = [], []
    for _ in range(2000):
        samples = torch.cat([torch.randn(9, 3, generator=generator), torch.zeros(9, 3)], dim=1)
        told = torch.cat([torch.randn(3, generator=generator), torch.zeros(3)])
        came = told + torch.tensor([0.0, 0, 0, 5, 5, 5])
        each = surprise_of(came, samples, None, told)
        assert each.nearest == pytest.approx(surprise_of(came, samples).nearest)
        assert each.excess == pytest.approx(surprise_of(told, samples).excess)
        found.append(each.rank)
        bare.append(surprise_of(came, samples).rank)
    assert chi_squared(np.array(found), 10) < CHECKS
    assert min(bare) == 9


def test_samples_that_are_all_alike_surprise_nobody_who_is_like_them() -> None:
    found = surprise_of(torch.zeros(4), torch.zeros(5, 4))
    assert (found.rank, found.p, found.typical) == (0, 1.0, 0.0)
    assert surprise_of(torch.ones(4), torch.zeros(5, 4)).rank == 5


def test_one_sample_tells_a_distance_and_no_rank() -> None:
    found = surprise_of(torch.ones(4), torch.zeros(1, 4))
    assert (found.rank, found.p) == (0, 1.0)
    assert found.nearest == pytest.approx(0.95)
    assert math.isnan(found.typical)
    assert math.isnan(found.copy_last)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        surprise_of(torch.ones(4), torch.zeros(0, 4))


def test_ranks_do_not_depend_on_the_order_of_the_samples() -> None:
    drawn = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    apart = distances(drawn)
    assert (apart == apart.T).all()
    order = [0, *range(7, 0, -1)]
    assert rank_of_first(apart) == rank_of_first(apart[np.ix_(order, order)])
