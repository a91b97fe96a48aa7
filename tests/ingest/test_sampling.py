"""Training clips: a uniform start, steps of 1/25 to 1/3 s, nearest frames, pure in (seed, source, clip)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.ingest.video.sampling import clip_generator, draw_times, nearest_frames, sample_clips

TEN_SECONDS = np.arange(300) / 30
frame_times = st.lists(
    st.floats(0.0, 0.5, allow_nan=False).map(lambda gap: round(gap, 4)), min_size=1, max_size=200
).map(np.cumsum)


@given(frame_times, st.lists(st.floats(-5.0, 50.0), min_size=1, max_size=20))
def test_the_nearest_frame_is_no_further_than_any_other(times, wanted):
    chosen = nearest_frames(times, np.array(wanted))
    distances = np.abs(times[None, :] - np.array(wanted)[:, None])
    assert np.array_equal(distances[np.arange(len(wanted)), chosen], distances.min(axis=1))


def test_of_two_frames_at_equal_distance_the_earlier_is_taken():
    assert nearest_frames(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.5])).tolist() == [0, 1]


@given(st.integers(0, 2**32), st.floats(0.0, 100.0), st.floats(0.0, 30.0), st.integers(1, 16))
def test_steps_stay_within_their_bounds_and_the_clip_within_the_video(seed, first, length, frames):
    drawn = draw_times(first, first + length, frames, np.random.default_rng(seed))
    steps = np.diff(drawn)
    assert len(drawn) == frames
    assert (steps >= 1 / 25 - 1e-9).all()
    assert (steps <= 1 / 3 + 1e-9).all()
    if drawn[-1] - drawn[0] <= length:
        assert first - 1e-9 <= drawn[0]
        assert drawn[-1] <= first + length + 1e-9
    else:
        assert drawn[0] == first


@given(
    st.integers(0, 2**32),
    st.tuples(st.floats(0.001, 5.0), st.floats(0.001, 5.0)).map(sorted).map(tuple),
    st.floats(0.0, 30.0),
)
def test_steps_stay_within_a_range_that_is_set(seed, stride, length):
    drawn = draw_times(0.0, length, 8, np.random.default_rng(seed), stride)
    steps = np.diff(drawn)
    assert (steps >= stride[0] - 1e-9).all()
    assert (steps <= stride[1] + 1e-9).all()
    assert 0 <= drawn[0] <= max(0.0, length - (drawn[-1] - drawn[0])) + 1e-9


def test_one_number_is_a_fixed_step():
    (clip,) = sample_clips(TEN_SECONDS, source="a", seed=0, clips=1, frames=8, stride=(0.2, 0.2))
    assert np.diff(clip.indices).tolist() == [6] * 7


def test_starts_and_steps_are_spread_evenly():
    clips = [draw_times(0.0, 10.0, 8, clip_generator(0, "video", number)) for number in range(4000)]
    steps = np.diff(np.array(clips)).ravel()
    places = np.array([clip[0] / (10 - (clip[-1] - clip[0])) for clip in clips])
    for values in (places, (steps - 1 / 25) / (1 / 3 - 1 / 25)):
        shares = np.histogram(values, bins=10, range=(0, 1))[0] / len(values)
        assert np.abs(shares - 0.1).max() < 0.02


def test_a_video_that_is_too_short_starts_at_its_first_frame_and_repeats_frames():
    (clip,) = sample_clips(np.array([5.0, 5.04, 5.08]), source="short", seed=0, clips=1, frames=8)
    assert clip.indices[0] == 0
    assert clip.indices[-1] == 2
    assert len(clip.indices) == 8
    assert clip.times == tuple(5.0 + 0.04 * index for index in clip.indices)


def test_times_are_those_of_the_container_at_any_offset_and_frame_rate():
    times = np.sort(np.random.default_rng(0).uniform(100.0, 110.0, 250))
    for clip in sample_clips(times, source="a", seed=1, clips=5, frames=8):
        assert clip.times == tuple(times[list(clip.indices)])
        assert list(clip.indices) == sorted(clip.indices)


def test_a_clip_does_not_depend_on_how_many_are_cut():
    few = sample_clips(TEN_SECONDS, source="a", seed=0, clips=2, frames=8)
    many = sample_clips(TEN_SECONDS, source="a", seed=0, clips=9, frames=8)
    assert many[:2] == few
    assert len(set(many)) == 9


def test_seed_and_source_change_the_clips():
    def draw(source: str, seed: int):
        return sample_clips(TEN_SECONDS, source=source, seed=seed, clips=1, frames=8)

    assert draw("a", 0) == draw("a", 0)
    assert draw("a", 0) != draw("a", 1)
    assert draw("a", 0) != draw("b", 0)


def test_another_process_with_another_hash_seed_draws_the_same():
    code = "from deltactl.ingest.video.sampling import clip_generator as g; print(g(7, 'ä b.mp4', 3).random())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{clip_generator(7, 'ä b.mp4', 3).random()}\n"}


@pytest.mark.parametrize("times", [[], [1.0, 0.5], [0.0, np.nan]])
def test_times_that_cannot_be_are_refused(times):
    with pytest.raises(ValueError, match="a"):
        sample_clips(np.array(times), source="a", seed=0, clips=1, frames=8)
