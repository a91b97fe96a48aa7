"""The demo's world: bright shapes in the dark that move, bounce, hide each other, and now and then turn at random.

Takes a seed, or a state to go on from, returns frames with exact class masks and depths. A state can be run again from
any moment with other randomness, which gives several futures that really can happen after one and the same past.

The world is a rectangle one unit high and `aspect` wide. Shapes keep their speed; at random moments (Poisson,
`TURNS_PER_SECOND` each) a shape turns by 60 to 120 degrees to either side. The nearer shape hides the farther. All are
of one size and stay upright, no two of up to four are of one kind: what is to be learned in minutes is where they go.

Shapes: H height · W width of a frame in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

CLASSES = ("background", "disc", "square", "triangle", "ring")
"""Names of the classes, by number."""

COLOURS = np.array([[20, 22, 34], [240, 155, 20], [70, 130, 255], [60, 215, 90], [240, 110, 190]], np.uint8)
"""RGB colour of each class: hues of Okabe and Ito's palette, which the colour-blind can tell apart, all far from the
dark background's, so that none is hard to see for a network."""

BACKGROUND_METRES = 60.0
TURNS_PER_SECOND = 0.9
RADIUS = 0.21
"""Of every shape, in heights of the frame."""
SLOWEST, FASTEST = 0.8, 1.6
"""Heights of the frame in a second."""
STEPS_PER_SECOND = 120
SUPERSAMPLING, SMALL_HEIGHT = 2, 200
"""Frames lower than this many pixels are painted so many times finer and averaged."""
LARGEST_REACH = 1.5
"""No shape reaches farther from its centre than this many of its radii."""


@dataclass(frozen=True)
class Shape:
    """One moving thing. Lengths are in heights of the frame, angles in radians, times in seconds."""

    kind: int
    """Class, 1 to 4."""
    x: float
    y: float
    speed: float
    heading: float
    depth_metres: float


@dataclass(frozen=True)
class World:
    """The state of the world at one moment."""

    aspect: float
    shapes: tuple[Shape, ...]
    """Nearest last."""

    def after(self, seconds: float, chance: np.random.Generator) -> World:
        """Return the state `seconds` later; `chance` decides who turns, when, and where to."""
        steps = round(seconds * STEPS_PER_SECOND)
        shapes = list(self.shapes)
        for _ in range(steps):
            turning = chance.random(len(shapes)) < TURNS_PER_SECOND / STEPS_PER_SECOND
            for number, turns in enumerate(turning):
                turn = (
                    math.copysign(chance.uniform(math.pi / 3, 2 * math.pi / 3), chance.random() - 0.5) if turns else 0
                )
                shapes[number] = _moved(shapes[number], 1 / STEPS_PER_SECOND, turn, self.aspect)
        return replace(self, shapes=tuple(shapes))


@dataclass(frozen=True)
class View:
    """What a camera sees of the world at one moment."""

    image: UInt8[np.ndarray, "H W 3"]
    classes: UInt8[np.ndarray, "H W"]
    """Class of each pixel, by its centre."""
    depth_metres: Float[np.ndarray, "H W"]


def new_world(seed: Sequence[int], aspect: float, shapes: int = 2) -> World:
    """Return a random state."""
    chance = np.random.default_rng(list(seed))
    depths = np.sort(chance.uniform(5, 45, shapes))[::-1]
    kinds = chance.permutation(len(CLASSES) - 1) + 1
    return World(
        aspect,
        tuple(_new_shape(chance, int(kinds[n % len(kinds)]), aspect, float(depth)) for n, depth in enumerate(depths)),
    )


def film(world: World, frames: int, frames_per_second: float, chance: np.random.Generator) -> list[World]:
    """Return the states at each frame of a film that starts at `world`."""
    states = [world]
    for number in range(1, frames):
        # Steps of the simulation are whole; counted from the start, frame rates that do not divide 120 keep time.
        steps = round(number * STEPS_PER_SECOND / frames_per_second)
        before = round((number - 1) * STEPS_PER_SECOND / frames_per_second)
        states.append(states[-1].after((steps - before) / STEPS_PER_SECOND, chance))
    return states


def render(world: World, height: int, width: int) -> View:
    """Return the world as a camera of this size sees it, with exact classes and depths."""
    nearest, depth = _who_is_where(world, height, width)
    kinds = np.array([0, *(shape.kind for shape in world.shapes)], np.uint8)
    return View(picture(world, height, width), kinds[nearest], depth)


def picture(world: World, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image alone, smoothed where the frame is small."""
    fine = SUPERSAMPLING if height < SMALL_HEIGHT else 1
    y, x = _pixel_centres(world, height * fine, width * fine)
    image = np.empty((height * fine, width * fine, 3), np.uint8)
    image[:] = COLOURS[0]
    for shape in world.shapes:
        box, u, v = _around(shape, x, y)
        image[box][_inside(shape.kind, u, v)] = COLOURS[shape.kind]
    return image if fine == 1 else np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _who_is_where(world: World, height: int, width: int) -> tuple[UInt8[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Return, for each pixel by its centre, 1 + the number of the nearest shape (0: none), and the depth in metres."""
    y, x = _pixel_centres(world, height, width)
    nearest = np.zeros((height, width), np.uint8)
    depth = np.full((height, width), BACKGROUND_METRES, np.float32)
    for number, shape in enumerate(world.shapes, start=1):
        box, u, v = _around(shape, x, y)
        inside = _inside(shape.kind, u, v)
        nearest[box][inside] = number
        depth[box][inside] = shape.depth_metres
    return nearest, depth


def _pixel_centres(world: World, height: int, width: int) -> tuple[Float[np.ndarray, "H"], Float[np.ndarray, "W"]]:
    rows = (np.arange(height, dtype=np.float32) + 0.5) / np.float32(height)
    columns = (np.arange(width, dtype=np.float32) + 0.5) * np.float32(world.aspect / width)
    return rows, columns


def _around(
    shape: Shape, x: Float[np.ndarray, "W"], y: Float[np.ndarray, "H"]
) -> tuple[tuple[slice, slice], Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]]:
    """Return the box of pixels that a shape can cover, and their coordinates on the shape, in its radii."""
    reach = LARGEST_REACH * RADIUS
    rows = slice(*np.searchsorted(y, (shape.y - reach, shape.y + reach)).tolist())
    columns = slice(*np.searchsorted(x, (shape.x - reach, shape.x + reach)).tolist())
    radius = np.float32(RADIUS)
    across, along = (x[None, columns] - np.float32(shape.x)) / radius, (y[rows, None] - np.float32(shape.y)) / radius
    return (rows, columns), across, along


def _inside(kind: int, u: Float[np.ndarray, "1 W"], v: Float[np.ndarray, "H 1"]) -> Bool[np.ndarray, "H W"]:
    inside: np.ndarray
    match CLASSES[kind]:
        case "disc":
            inside = u**2 + v**2 < 1
        case "square":
            inside = np.maximum(np.abs(u), np.abs(v)) < 0.85
        case "triangle":
            inside = np.maximum(np.sqrt(3) * np.abs(u) - v, 2 * v) < 1.4
        case "ring":
            inside = np.abs(np.sqrt(u**2 + v**2) - 0.75) < 0.3
        case _:
            raise ValueError(f"kind is {kind}, expected 1 to {len(CLASSES) - 1}")
    return inside


def _new_shape(chance: np.random.Generator, kind: int, aspect: float, depth_metres: float) -> Shape:
    return Shape(
        kind=kind,
        x=float(chance.uniform(RADIUS, aspect - RADIUS)),
        y=float(chance.uniform(RADIUS, 1 - RADIUS)),
        speed=float(chance.uniform(SLOWEST, FASTEST)),
        heading=float(chance.uniform(0, 2 * math.pi)),
        depth_metres=depth_metres,
    )


def _moved(shape: Shape, seconds: float, turn: float, aspect: float) -> Shape:
    heading = shape.heading + turn
    x, across = _bounced(shape.x + shape.speed * math.cos(heading) * seconds, RADIUS, aspect - RADIUS)
    y, along = _bounced(shape.y + shape.speed * math.sin(heading) * seconds, RADIUS, 1 - RADIUS)
    heading = math.atan2(along * math.sin(heading), across * math.cos(heading))
    return replace(shape, x=x, y=y, heading=heading)


def _bounced(place: float, low: float, high: float) -> tuple[float, int]:
    """Return the place after at most one bounce off a wall, and −1 where it bounced."""
    if place < low:
        return 2 * low - place, -1
    if place > high:
        return 2 * high - place, -1
    return place, 1
