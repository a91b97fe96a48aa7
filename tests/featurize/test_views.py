"""Views are crops within the frame, of the published areas and ratios, and the same for ever."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltactl.artifacts import Identity
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.errors import ConfigError, DamagedError
from deltactl.featurize.views import PUBLISHED, Augmentation, View, parse_views, training_view, view_of_clip
from deltactl.ingest.shards.geometry import Box

sides = st.integers(16, 1200)


@given(seed=st.integers(0, 2**32), key=st.text(max_size=20), view=st.integers(0, 999), height=sides, width=sides)
@settings(max_examples=200, deadline=None)
def test_a_training_crop_lies_in_the_frame_and_never_changes(
    seed: int, key: str, view: int, height: int, width: int
) -> None:
    drawn = training_view(seed, key, view, height, width)
    box = drawn.crop
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert drawn == training_view(seed, key, view, height, width)


@given(key=st.text(max_size=20), height=st.integers(256, 720), view=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_area_and_ratio_are_the_published_ones_on_ordinary_frames(key: str, height: int, view: int) -> None:
    width = height * 4 // 3
    box = training_view(0, key, view, height, width).crop
    tolerance = 2 / math.sqrt(height * width)
    assert 0.6 - tolerance <= box.height * box.width / (height * width) <= 1 + tolerance
    assert 3 / 4 * (1 - tolerance * 2) <= box.width / box.height <= 4 / 3 * (1 + tolerance * 2)


@given(
    key=st.text(max_size=20),
    area=st.tuples(st.floats(0.05, 0.7), st.floats(0.05, 0.7)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.8, 1.25), st.floats(0.8, 1.25)).map(sorted).map(tuple),
    height=st.integers(256, 720),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_is_drawn_from_the_ranges_that_are_set(
    key: str, area: tuple[float, float], aspect: tuple[float, float], height: int
) -> None:
    augmentation = Augmentation(area, aspect)
    box = training_view(0, key, 0, height, height, augmentation).crop
    tolerance = 4 / math.sqrt(area[0] * height * height)
    assert area[0] * (1 - tolerance) <= box.height * box.width / height**2 <= area[1] * (1 + tolerance)
    assert aspect[0] * (1 - tolerance) <= box.width / box.height <= aspect[1] * (1 + tolerance)


@given(key=st.text(max_size=20), view=st.integers(0, 99), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_only_the_mirror_changes_with_its_probability(key: str, view: int, share: float) -> None:
    never, often, always = (training_view(0, key, view, 480, 640, Augmentation(flip=each)) for each in (0, share, 1))
    assert never.crop == often.crop == always.crop == training_view(0, key, view, 480, 640).crop
    assert (never.flip, always.flip) == (False, True)


def test_a_share_of_the_views_is_mirrored() -> None:
    views = [training_view(0, f"clip{number}", 0, 480, 640, Augmentation(flip=0.2)) for number in range(2000)]
    assert abs(sum(view.flip for view in views) / 2000 - 0.2) < 0.04


def test_the_settings_have_the_published_defaults_and_come_back_from_an_identity() -> None:
    assert Augmentation.of(FeaturizeConfig()) == Augmentation.of(TokenizerConfig()) == PUBLISHED
    assert PUBLISHED.identity == {}
    other = Augmentation.of(FeaturizeConfig(crop_area="1/3:0.9", aspect="1", flip=0.0))
    assert other == Augmentation((1 / 3, 0.9), (1.0, 1.0), 0.0)
    assert other.identity == {"crop_area": "1/3:0.9", "aspect": "1", "flip": 0.0}
    assert Augmentation.of_identity(Identity("features", {"seed": 3, **other.identity})) == other
    assert Augmentation.of_identity(Identity("features", {"seed": 3})) == PUBLISHED
    with pytest.raises(DamagedError, match=r"crop_area.*'2'"):
        Augmentation.of_identity(Identity("features", {"crop_area": "2"}))


def test_crops_spread_over_the_allowed_range_and_half_of_them_are_mirrored() -> None:
    views = [training_view(0, f"clip{number}", 0, 480, 640) for number in range(2000)]
    areas = [view.crop.height * view.crop.width / (480 * 640) for view in views]
    assert min(areas) < 0.62
    assert max(areas) > 0.95
    assert abs(sum(view.flip for view in views) / 2000 - 0.5) < 0.05
    lefts = [view.crop.left / max(1, 640 - view.crop.width) for view in views]
    assert abs(sum(lefts) / 2000 - 0.5) < 0.05


def test_seed_key_and_view_each_change_the_crop() -> None:
    base = training_view(0, "a", 0, 480, 640)
    assert training_view(1, "a", 0, 480, 640) != base
    assert training_view(0, "b", 0, 480, 640) != base
    assert training_view(0, "a", 1, 480, 640) != base


def test_these_views_are_frozen_since_stores_hold_them() -> None:
    assert training_view(0, "abseiling/x_000", 0, 512, 682) == View(Box(top=7, left=102, height=476, width=531), True)
    assert training_view(7, "abseiling/x_000", 3, 512, 682) == View(Box(top=9, left=143, height=497, width=444), False)


def test_a_frame_too_long_for_any_crop_gives_its_centre() -> None:
    view = training_view(0, "panorama", 0, 100, 1000)
    assert view.crop == Box(0, 433, 100, 133)


def test_evaluation_views_are_the_square_crops_and_a_square_frame_has_one() -> None:
    assert view_of_clip("square", 0, "a", 0, 64, 96) == View(Box(0, 0, 64, 64), False)
    assert view_of_clip("square", 5, "b", 1, 64, 96) == View(Box(0, 32, 64, 64), False)
    assert view_of_clip("square", 0, "a", 1, 64, 64) is None


def test_views_are_named_by_number_or_range() -> None:
    assert parse_views("1") == range(1)
    assert parse_views("16:32") == range(16, 32)
    for wrong in ("0", "", "3:3", "4:2", "-1", "1:2:3", "x"):
        with pytest.raises(ConfigError, match="16:32"):
            parse_views(wrong)
