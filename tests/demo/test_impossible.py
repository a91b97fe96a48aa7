"""Films of the demo's world that cannot be, made of the frames of those that can."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltactl.demo.datasets import DemoSizes
from deltactl.demo.impossible import (
    EARLIEST_SECONDS,
    FRAMES_PER_SECOND,
    KINDS,
    LATEST_SECONDS,
    LEAST_JUMP,
    make_scene,
    write_pairs,
)
from deltactl.demo.world import FASTEST, RADIUS
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
def test_impossible_films_are_made_of_the_frames_of_possible_ones(kind: str, number: int) -> None:
    scene = make_scene(kind, 0, number, ASPECT)
    (one, two), (there, back), event = scene.possible, scene.impossible, scene.event
    assert len(one) == len(two) == len(there) == len(back) == 60
    assert there == one[:event] + two[event:]
    assert back == two[:event] + one[event:]
    assert EARLIEST_SECONDS <= event / FRAMES_PER_SECOND <= LATEST_SECONDS
    for states in zip(one, two, strict=True):
        assert states[0] != states[1]
        assert states[0].shapes[0] == states[1].shapes[0], "the farther shape does the same in both"
    assert make_scene(kind, 0, number, ASPECT) == scene
    assert make_scene(kind, 1, number, ASPECT) != scene


def test_in_possible_films_no_shape_moves_faster_than_it_can() -> None:
    for kind in KINDS:
        for states in make_scene(kind, 0, 0, ASPECT).possible:
            for before, after in itertools.pairwise(states):
                for one, two in zip(before.shapes, after.shapes, strict=True):
                    assert math.hypot(two.x - one.x, two.y - one.y) <= FASTEST / FRAMES_PER_SECOND + 1e-6
                    assert (one.kind, one.depth_metres) == (two.kind, two.depth_metres)


def test_a_shape_vanishes_or_appears() -> None:
    scene = make_scene("vanish", 0, 0, ASPECT)
    counts = [[len(state.shapes) for state in states] for states in scene.impossible]
    assert counts == [
        [2] * scene.event + [1] * (60 - scene.event),
        [1] * scene.event + [2] * (60 - scene.event),
    ]


def test_a_shape_jumps_far_and_moves_on_within_the_walls() -> None:
    for number in range(5):
        scene = make_scene("jump", 0, number, ASPECT)
        for states in scene.impossible:
            before, after = (states[scene.event + step].shapes[-1] for step in (-1, 0))
            assert math.hypot(after.x - before.x, after.y - before.y) >= LEAST_JUMP
            assert before.kind == after.kind
            for state in states:
                shape = state.shapes[-1]
                assert RADIUS - 1e-6 <= shape.x <= ASPECT - RADIUS + 1e-6
                assert RADIUS - 1e-6 <= shape.y <= 1 - RADIUS + 1e-6


def test_a_shape_changes_its_kind_and_nothing_else() -> None:
    for number in range(5):
        scene = make_scene("change", 0, number, ASPECT)
        for one, two in zip(*scene.possible, strict=True):
            assert one.shapes[-1].kind != two.shapes[-1].kind
            assert replace(one.shapes[-1], kind=1) == replace(two.shapes[-1], kind=1)
            assert two.shapes[-1].kind != two.shapes[0].kind, "there are never two of one kind"


def test_the_films_and_their_list_are_the_same_each_time(tmp_path: Path) -> None:
    files = [write_pairs(tmp_path / name, 3, 1, DemoSizes(test_size=(72, 96))) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    pairs = read_pairs(Location.of(files[0]))
    assert [pair.set for pair in pairs] == [kind for kind in KINDS for _ in range(4)]
    assert len({pair.group for pair in pairs}) == len(KINDS)
    for pair in pairs:
        films = [frames_of(tmp_path / "a" / name) for name in (pair.possible, pair.impossible)]
        assert films[0].shape == films[1].shape == (60, 72, 96, 3)
        for name, film in zip((pair.possible, pair.impossible), films, strict=True):
            assert (film == frames_of(tmp_path / "b" / name)).all()
        differ = np.flatnonzero((films[0] != films[1]).any(axis=(1, 2, 3)))
        event = make_scene(pair.set, 3, 0, 96 / 72).event
        if pair.possible[-1] == pair.impossible[-1]:
            assert differ.min() >= event
        else:
            assert differ.max() < event


def test_other_events_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of vanish, jump, change"):
        make_scene("melt", 0, 0, ASPECT)
