"""The order of clips: every clip once an epoch, the same for any devices and wherever a run stopped."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltactl.ingest.shards.held_out import share_of
from deltactl.train.data.draws import scramble, seed_of
from deltactl.train.data.order import BatchPlan, ClipOrder, permute

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum)


@given(count=st.integers(1, 5000), key=st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_permute_is_a_permutation(count, key):
    assert sorted(permute(np.arange(count), count, key)) == list(range(count))


@given(shard_sizes=sizes, seed=st.integers(0, 2**40), block=st.none() | st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_each_epoch_holds_every_clip_once(shard_sizes, seed, block):
    order = ClipOrder(shard_sizes, seed, block)
    places = order.at(np.arange(3 * order.count))
    for epoch in range(3):
        assert sorted(places.clip[places.epoch == epoch]) == list(range(order.count))


@given(shard_sizes=sizes, seed=st.integers(0, 2**40), block=st.none() | st.integers(1, 15), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_place_is_found_without_those_before_it(shard_sizes, seed, block, data):
    order = ClipOrder(shard_sizes, seed, block)
    some = np.array(data.draw(st.lists(st.integers(0, 4 * order.count - 1), min_size=1, max_size=20)))
    everything = ClipOrder(shard_sizes, seed, block).at(np.arange(4 * order.count))
    assert (order.at(some).clip == everything.clip[some]).all()


def test_seeds_and_epochs_give_other_orders():
    order = ClipOrder([500], 0).at(np.arange(1000)).clip
    assert (order[:500] != order[500:]).mean() > 0.9
    assert (order[:500] != ClipOrder([500], 1).at(np.arange(500)).clip).mean() > 0.9


def test_the_shuffle_is_global():
    """Neighbours in the stream are far apart in the data: on average a third of the set, as for a random shuffle."""
    clips = ClipOrder([100] * 100, 3).at(np.arange(10_000)).clip
    assert abs(np.abs(np.diff(clips)).mean() / 10_000 - 1 / 3) < 0.02


def test_blocks_keep_their_shards_together():
    """With blocks of 4 of 20 shards, each fifth of an epoch touches 4 shards, other ones in the next epoch."""
    order = ClipOrder([10] * 20, 0, block_shards=4)
    epochs = order.at(np.arange(400)).clip.reshape(2, 5, 40) // 10
    touched = [[set(block.tolist()) for block in epoch] for epoch in epochs]
    assert all(len(shards) == 4 for epoch in touched for shards in epoch)
    assert touched[0] != touched[1]


def test_a_late_place_costs_what_an_early_one_costs():
    order = ClipOrder([256] * 16_750, 0)  # Kinetics-700 train, 8 clips a video
    places = np.arange(1024, dtype=np.int64)
    start = time.perf_counter()
    order.at(places + 1024 * 10**9)
    assert time.perf_counter() - start < 0.5


@given(batch=st.integers(1, 6), devices=st.integers(1, 4), accumulate=st.integers(1, 4), step=st.integers(0, 10**6))
def test_every_way_to_cut_a_step_computes_the_same_samples(batch, devices, accumulate, step):
    plan = BatchPlan(batch, devices, accumulate)
    seen = np.concatenate([plan.places(step, turn, rank) for turn in range(accumulate) for rank in range(devices)])
    assert (seen == np.arange(step * plan.effective, (step + 1) * plan.effective)).all()


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        BatchPlan(0)
    with pytest.raises(ValueError, match="no clips"):
        ClipOrder([0, 0], 0)
    with pytest.raises(ValueError, match="block_shards is 0"):
        ClipOrder([3], 0, 0)


@given(a=st.integers(0, 2**63 - 1), b=st.text(max_size=10), c=st.text(max_size=10))
def test_seeds_tell_their_parts_apart(a, b, c):
    assert 0 <= seed_of(a, b, c) < 2**63
    assert seed_of(a, b, c) == seed_of(a, b, c)
    assert seed_of("1") != seed_of(1)


def test_draws_are_uniform():
    numbers = scramble(7, np.arange(100_000)) % np.uint64(7)
    assert np.bincount(numbers.astype(int)).min() > 0.95 * 100_000 / 7
    assert abs(np.mean([share_of(f"video-{number}.mp4") < 0.1 for number in range(20_000)]) - 0.1) < 0.01
