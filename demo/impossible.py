"""Films of the demo's world in which something happens that cannot, each beside its possible twin.

    ROOT/{possible,impossible}/KIND0000/frame_SECONDS.png    exactly alike up to the moment of the event
    ROOT/pairs.csv                                           possible, impossible, set (what happens), group

What happens, to the nearest shape: it *vanishes*; it *jumps* to another place; it goes *through* the wall that it
should have bounced off. Both films have the same worlds, and the same turns at the same moments. They are folders of
frames: an encoder that looks ahead would change frames before the event, too. Nothing of this is
part of `deltactl demo`: call `write_pairs`.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deltactl.demo.datasets import DemoSizes, write_image
from deltactl.demo.world import RADIUS, Shape, World, film, new_world, picture

KINDS = ("vanish", "jump", "through")
IMPOSSIBLE = 5
"""The stream of these worlds, beside those of `datasets`."""
FRAMES_PER_SECOND = 15
SECONDS = 4.0
EARLIEST_SECONDS, LATEST_SECONDS = 1.4, 3.0
"""When the event is, from the beginning of the film."""
LEAST_JUMP = 0.45
"""In heights of the frame."""
MOST_TRIES = 200


@dataclass(frozen=True)
class Twins:
    """Two films that differ in what happens from one frame on."""

    possible: tuple[World, ...]
    impossible: tuple[World, ...]
    event: int
    """The first frame in which they differ."""


def write_pairs(root: Path, seed: int, pairs: int, sizes: DemoSizes | None = None) -> Path:
    """Write so many pairs of films of each kind, and return the file that tells them."""
    height, width = (sizes or DemoSizes()).test_size
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["possible", "impossible", "set", "group"])
    for kind in KINDS:
        for number in range(pairs):
            twins = make_twins(kind, seed, number, width / height)
            names = []
            for folder, states in (("possible", twins.possible), ("impossible", twins.impossible)):
                names.append(f"{folder}/{kind}{number:04}")
                (root / names[-1]).mkdir(parents=True, exist_ok=True)
                for frame, state in enumerate(states):
                    seconds = frame / FRAMES_PER_SECOND
                    write_image(root / names[-1] / f"frame_{seconds:.3f}.png", picture(state, height, width))
            writer.writerow([*names, kind, f"{kind}{number:04}"])
    (root / "pairs.csv").write_text(text.getvalue())
    return root / "pairs.csv"


def make_twins(kind: str, seed: int, number: int, aspect: float) -> Twins:
    """Return one pair of films.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    for attempt in range(MOST_TRIES):
        name = [seed, IMPOSSIBLE, KINDS.index(kind), number, attempt]
        start, frames = new_world((*name, 0), aspect), round(SECONDS * FRAMES_PER_SECOND)
        states = film(start, frames, FRAMES_PER_SECOND, np.random.default_rng([*name, 1]))
        chance = np.random.default_rng([*name, 2])
        first, last = round(EARLIEST_SECONDS * FRAMES_PER_SECOND), round(LATEST_SECONDS * FRAMES_PER_SECOND)
        if kind == "through":
            event = next((frame for frame in range(first, last) if _bounces(states, frame)), None)
            if event is None:
                continue  # nothing bounces in time: another world
            return Twins(tuple(states), (*states[:event], *_gone_through(states, event)), event)
        event = int(chance.integers(first, last))
        if kind == "vanish":
            gone = (replace(state, shapes=state.shapes[:-1]) for state in states[event:])
            return Twins(tuple(states), (*states[:event], *gone), event)
        again = np.random.default_rng([*name, 1])
        before = film(start, event + 1, FRAMES_PER_SECOND, again)
        jumped = replace(before[-1], shapes=(*before[-1].shapes[:-1], _elsewhere(before[-1], chance)))
        after = film(jumped, frames - event, FRAMES_PER_SECOND, again)
        return Twins(tuple(states), (*states[:event], *after), event)
    raise AssertionError(f"no world out of {MOST_TRIES} in which a shape bounces in time")


def _bounces(states: list[World], frame: int) -> bool:
    """Whether, without the wall, the nearest shape would be beyond it in this frame, and did not turn before."""
    before, now = states[frame - 1].shapes[-1], states[frame].shapes[-1]
    free = _straight(before, 1 / FRAMES_PER_SECOND)
    low, aspect = RADIUS, states[frame].aspect
    beyond = max(low - free.x, free.x - (aspect - low), low - free.y, free.y - (1 - low))
    # Only a clear bounce, whose reflection differs from a random turn: the place is mirrored at the wall.
    return beyond > 0.2 * free.speed / FRAMES_PER_SECOND and math.hypot(now.x - free.x, now.y - free.y) > 1e-3


def _gone_through(states: list[World], event: int) -> list[World]:
    """Return the states from the event on with the nearest shape going straight on, out of the frame."""
    before = states[event - 1].shapes[-1]
    return [
        replace(state, shapes=(*state.shapes[:-1], _straight(before, (number + 1) / FRAMES_PER_SECOND)))
        for number, state in enumerate(states[event:])
    ]


def _straight(shape: Shape, seconds: float) -> Shape:
    way = shape.speed * seconds
    return replace(
        shape,
        x=shape.x + way * math.cos(shape.heading),
        y=shape.y + way * math.sin(shape.heading),
    )


def _elsewhere(world: World, chance: np.random.Generator) -> Shape:
    """Return the nearest shape at another place, within the walls and far from where it is."""
    shape = world.shapes[-1]
    for _ in range(MOST_TRIES):
        x = float(chance.uniform(RADIUS, world.aspect - RADIUS))
        y = float(chance.uniform(RADIUS, 1 - RADIUS))
        if math.hypot(x - shape.x, y - shape.y) >= LEAST_JUMP:
            return replace(shape, x=x, y=y)
    raise AssertionError("no place is far enough away")
