"""Films of the demo's world in which something happens that cannot, made of the same frames as possible ones.

    ROOT/{possible,impossible}/KIND0000{a,b}/frame_SECONDS.png
    ROOT/pairs.csv                                              possible, impossible, set (what happens), group (scene)

A scene is two possible films that differ in the nearest shape alone, and the two films that change from one of them to
the other in the middle (as in IntPhys, Riochet et al., 2018): the shape is there or not (*vanish*, and the other way it
appears), it is here or elsewhere (*jump*), it is of one kind or of another (*change*). So possible and impossible films
are made of the same frames, and what is merely unusual about a frame tells nothing. All four pairs of a scene are told.
They are folders of frames: an encoder that looks ahead would change frames before the event, too.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deltactl.demo.datasets import DemoSizes, write_image
from deltactl.demo.world import CLASSES, Shape, World, film, new_world, picture

KINDS = ("vanish", "jump", "change")
IMPOSSIBLE = 5
"""The stream of these worlds, beside those of `datasets`."""
FRAMES_PER_SECOND = 15
SECONDS = 4.0
EARLIEST_SECONDS, LATEST_SECONDS = 1.4, 3.0
"""When the event is, from the beginning of the film."""
LEAST_JUMP = 0.45
"""In heights of the frame; no shape moves as far in 0.2 s."""
MOST_TRIES = 200


@dataclass(frozen=True)
class Scene:
    """Two possible films, and two that change between them at one frame."""

    possible: tuple[tuple[World, ...], tuple[World, ...]]
    impossible: tuple[tuple[World, ...], tuple[World, ...]]
    event: int
    """The first frame after the change."""


def write_pairs(root: Path, seed: int, scenes: int, sizes: DemoSizes | None = None) -> Path:
    """Write so many scenes of each kind, four films each, and return the file that tells the pairs."""
    height, width = (sizes or DemoSizes()).test_size
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["possible", "impossible", "set", "group"])
    for kind in KINDS:
        for number in range(scenes):
            scene, name = make_scene(kind, seed, number, width / height), f"{kind}{number:04}"
            for folder, films in (("possible", scene.possible), ("impossible", scene.impossible)):
                for letter, states in zip("ab", films, strict=True):
                    write_film(root / folder / f"{name}{letter}", states, (height, width))
            for possible in "ab":
                for impossible in "ab":
                    writer.writerow([f"possible/{name}{possible}", f"impossible/{name}{impossible}", kind, name])
    (root / "pairs.csv").write_text(text.getvalue())
    return root / "pairs.csv"


def write_film(folder: Path, states: tuple[World, ...], size: tuple[int, int]) -> None:
    """Write what a camera of this height and width sees of each state, as a folder of frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, state in enumerate(states):
        write_image(folder / f"frame_{frame / FRAMES_PER_SECOND:.3f}.png", picture(state, *size))


def make_scene(kind: str, seed: int, number: int, aspect: float) -> Scene:
    """Return one scene.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    name = [seed, IMPOSSIBLE, KINDS.index(kind), number]
    far, near = new_world((*name, 0), aspect).shapes
    behind, before = _way(far, aspect, [*name, 1]), _way(near, aspect, [*name, 2])
    chance = np.random.default_rng([*name, 3])
    first, last = round(EARLIEST_SECONDS * FRAMES_PER_SECOND), round(LATEST_SECONDS * FRAMES_PER_SECOND)
    one = tuple(World(aspect, shapes) for shapes in zip(behind, before, strict=True))
    event = int(chance.integers(first, last))
    if kind == "vanish":
        two = tuple(World(aspect, (shape,)) for shape in behind)
    else:
        if kind == "jump":
            other, event = _elsewhere(near, before, range(first, last), aspect, name)
        else:
            kinds = [number for number in range(1, len(CLASSES)) if number not in (near.kind, far.kind)]
            new = int(chance.choice(kinds))
            other = [replace(shape, kind=new) for shape in before]
        two = tuple(World(aspect, shapes) for shapes in zip(behind, other, strict=True))
    return Scene((one, two), ((*one[:event], *two[event:]), (*two[:event], *one[event:])), event)


def _way(shape: Shape, aspect: float, name: list[int]) -> list[Shape]:
    """Return a shape at every frame of a film."""
    chance = np.random.default_rng(name)
    states = film(World(aspect, (shape,)), round(SECONDS * FRAMES_PER_SECOND), FRAMES_PER_SECOND, chance)
    return [state.shapes[0] for state in states]


def _elsewhere(near: Shape, way: list[Shape], events: range, aspect: float, name: list[int]) -> tuple[list[Shape], int]:
    """Return another way of the shape, and a frame about which it is far from the first one."""
    for attempt in range(MOST_TRIES):
        start = new_world((*name, 4, attempt), aspect).shapes[-1]
        other = _way(replace(start, kind=near.kind, depth_metres=near.depth_metres), aspect, [*name, 5, attempt])
        event = int(np.random.default_rng([*name, 6, attempt]).choice(events))
        jumps = (way[event - 1], other[event]), (other[event - 1], way[event])
        if all(math.hypot(one.x - two.x, one.y - two.y) >= LEAST_JUMP for one, two in jumps):
            return other, event
    raise AssertionError(f"no way out of {MOST_TRIES} is far enough from another")
