"""Which set each sample of a mixture is of: shares met at any length, found at any number without those before it."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltactl.configs.mixture import weighted
from deltactl.train.data.mixing import MOST_PARTS, InTurn, Mixing, whole_parts
from deltactl.train.data.order import BatchPlan
from deltactl.train.data.validation import spread

weights = st.lists(st.integers(1, 10_000), min_size=2, max_size=8)


def shares_of(numbers: list[int]) -> list[Fraction]:
    return [Fraction(number, sum(numbers)) for number in numbers]


def most_off(sets: int) -> Fraction:
    """Return how many samples a set may be off its share, by the docstring of `mixing`."""
    return Fraction(1, 2) + Fraction(1, 2) * sum((Fraction(1, each) for each in range(1, sets - 1)), Fraction(0))


@given(numbers=weights)
@settings(max_examples=60, deadline=None)
def test_the_first_n_samples_hold_each_share_of_n_for_every_n(numbers):
    shares = shares_of(numbers)
    at = Mixing(shares).at(np.arange(2000))
    for number, share in enumerate(shares):
        counts = np.concatenate(([0], np.cumsum(at.number == number)))
        off = np.abs(counts - np.arange(2001) * float(share)).max()
        assert off <= float(most_off(len(shares))) + 1e-9


@given(numbers=weights, far=st.integers(0, 10**15))
@settings(max_examples=60, deadline=None)
def test_shares_are_exact_far_into_a_run(numbers, far):
    shares = shares_of(numbers)
    counts = Mixing(shares).counts(far)
    assert sum(counts) == far
    assert all(
        abs(count - far * share) <= most_off(len(shares)) for count, share in zip(counts, shares, strict=True)
    ), "in whole numbers, with no rounding"
    whole = Mixing(shares).counts(far - far % sum(numbers))
    assert whole == [share * (far - far % sum(numbers)) for share in shares], "after whole rounds there is nothing off"


@given(numbers=weights, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_place_is_found_without_those_before_it_and_counts_through_its_set(numbers, data):
    mixing = Mixing(shares_of(numbers))
    everything = mixing.at(np.arange(3000))
    some = np.array(data.draw(st.lists(st.integers(0, 2999), min_size=1, max_size=20)))
    found = Mixing(shares_of(numbers)).at(some)
    assert (found.number == everything.number[some]).all()
    assert (found.place == everything.place[some]).all()
    for number in range(len(numbers)):
        own = everything.place[everything.number == number]
        assert (own == np.arange(len(own))).all(), "each set's own stream, none twice, none left out"
    assert mixing.counts(3000) == [int((everything.number == number).sum()) for number in range(len(numbers))]


@given(
    numbers=weights,
    cut=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    step=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_every_way_to_cut_a_step_computes_the_same_samples(numbers, cut, step):
    mixing, plan = Mixing(shares_of(numbers)), BatchPlan(*cut)
    whole = mixing.at(np.arange(step * plan.effective, (step + 1) * plan.effective))
    parts = [
        mixing.at(plan.places(step, turn, rank)) for turn in range(plan.accumulate) for rank in range(plan.devices)
    ]
    assert (np.concatenate([part.number for part in parts]) == whole.number).all()
    assert (np.concatenate([part.place for part in parts]) == whole.place).all()


def test_one_set_is_the_stream_itself():
    at = Mixing([Fraction(1)]).at(np.arange(10**12, 10**12 + 100))
    assert (at.number == 0).all()
    assert (at.place == np.arange(10**12, 10**12 + 100)).all()


def test_sets_alternate_as_evenly_as_they_can():
    assert Mixing(shares_of([1, 1])).at(np.arange(8)).number.tolist() == [0, 1] * 4
    rare = np.flatnonzero(Mixing(shares_of([1, 99])).at(np.arange(1000)).number == 0)
    assert set(np.diff(rare).tolist()) == {100}


def test_a_late_place_costs_what_an_early_one_costs():
    mixing = Mixing(shares_of([5, 3, 2]))
    start = time.perf_counter()
    mixing.at(np.arange(1024, dtype=np.int64) + 1024 * 10**12)
    assert time.perf_counter() - start < 0.1


def test_shares_are_whole_parts():
    assert whole_parts([each.share for each in weighted(["a=0.7", "b=0.2", "c=.1"])]) == [7, 2, 1]
    assert whole_parts([each.share for each in weighted(["a=2", "b=1"])]) == [2, 1]
    odd = [each.share for each in weighted(["a=0.123456789012345", "b=0.3", "c=0.00001"])]
    parts = whole_parts(odd)
    assert sum(parts) == MOST_PARTS
    assert all(abs(part - share * MOST_PARTS) < 1 for part, share in zip(parts, odd, strict=True))
    for bad in ([], [Fraction(1, 2)], [Fraction(3, 2), Fraction(-1, 2)], [1 - Fraction(1, 2**40), Fraction(1, 2**40)]):
        with pytest.raises(ValueError, match="shares are"):
            whole_parts(bad)


def test_a_validation_takes_the_sets_in_turn_and_as_many_of_each_as_it_has():
    at = InTurn([3, 0, 2]).at(np.arange(5))
    assert at.number.tolist() == [0, 0, 0, 2, 2]
    assert at.place.tolist() == [0, 1, 2, 0, 1]
    assert spread(2048, [5000]) == [2048]
    assert spread(2048, [100, 50]) == [100, 50]
    assert spread(2048, [100_000, 10, 5000]) == [1019, 10, 1019]
