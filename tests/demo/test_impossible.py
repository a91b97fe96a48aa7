"""Films of the demo's world that cannot be: alike their twins up to the event, and different from there on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deltactl.demo.datasets import DemoSizes
from deltactl.demo.impossible import EARLIEST_SECONDS, FRAMES_PER_SECOND, KINDS, LATEST_SECONDS, make_twins, write_pairs
from deltactl.evaluate.surprise.pairs import read_pairs
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.video.frames import open_frame_folder
from deltactl.locations import Location

ASPECT = 4 / 3


def frames_of(folder: Path) -> np.ndarray:
    sequence = open_frame_folder(folder)
    return np.stack([decode_frame_file(sequence.read(number), name) for number, name in enumerate(sequence.names)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(4))
def test_twins_are_alike_up_to_the_event(kind: str, number: int) -> None:
    twins = make_twins(kind, 0, number, ASPECT)
    assert len(twins.possible) == len(twins.impossible) == 60
    assert twins.possible[: twins.event] == twins.impossible[: twins.event]
    assert twins.possible[twins.event] != twins.impossible[twins.event]
    assert EARLIEST_SECONDS <= twins.event / FRAMES_PER_SECOND <= LATEST_SECONDS
    others = [
        (one.shapes[:-1], two.shapes[: len(one.shapes) - 1])
        for one, two in zip(twins.possible, twins.impossible, strict=True)
    ]
    assert all(one == two for one, two in others), "the other shapes do the same in both"
    assert make_twins(kind, 0, number, ASPECT) == twins
    assert make_twins(kind, 1, number, ASPECT) != twins


def test_a_shape_vanishes() -> None:
    twins = make_twins("vanish", 0, 0, ASPECT)
    assert {len(state.shapes) for state in twins.impossible[twins.event :]} == {1}


def test_a_shape_jumps_far_and_moves_on_within_the_walls() -> None:
    for number in range(5):
        twins = make_twins("jump", 0, number, ASPECT)
        before, after = (twins.impossible[twins.event + step].shapes[-1] for step in (-1, 0))
        assert math.hypot(after.x - before.x, after.y - before.y) > 0.3
        for state in twins.impossible:
            shape = state.shapes[-1]
            assert -1e-6 <= shape.x - shape.radius <= ASPECT
            assert shape.y + shape.radius <= 1 + 1e-6


def test_a_shape_goes_through_the_wall_that_its_twin_bounces_off() -> None:
    for number in range(5):
        twins = make_twins("through", 0, number, ASPECT)
        shape = twins.impossible[twins.event].shapes[-1]
        inside = shape.radius <= shape.x <= ASPECT - shape.radius and shape.radius <= shape.y <= 1 - shape.radius
        assert not inside
        last = twins.impossible[-1].shapes[-1]
        assert math.hypot(last.x - ASPECT / 2, last.y - 0.5) > 0.5
        assert last.heading == shape.heading
        for state in twins.possible:
            here = state.shapes[-1]
            assert here.radius - 1e-6 <= here.x <= ASPECT - here.radius + 1e-6


def test_the_films_and_their_list_are_the_same_each_time(tmp_path: Path) -> None:
    files = [write_pairs(tmp_path / name, 3, 1, DemoSizes(test_size=(72, 96))) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    pairs = read_pairs(Location.of(files[0]))
    assert [pair.set for pair in pairs] == list(KINDS)
    for pair in pairs:
        for name in (pair.possible, pair.impossible):
            assert (frames_of(tmp_path / "a" / name) == frames_of(tmp_path / "b" / name)).all()
        possible, impossible = (frames_of(tmp_path / "a" / name) for name in (pair.possible, pair.impossible))
        assert possible.shape == impossible.shape == (60, 72, 96, 3)
        differ = np.flatnonzero((possible != impossible).any(axis=(1, 2, 3)))
        assert differ[0] == make_twins(pair.set, 3, 0, 96 / 72).event


def test_other_events_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of vanish, jump, through"):
        make_twins("melt", 0, 0, ASPECT)
