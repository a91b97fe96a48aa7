"""The demo's world: textured shapes that move, bounce, hide each other, and now and then turn at random.

Takes a seed, or a state to go on from, returns frames with exact class masks and depths. A state can be run again from
any moment with other randomness, which gives several futures that really can happen after one and the same past.

The world is a rectangle one unit high and `aspect` wide. Shapes keep their speed; at random moments (Poisson,
`TURNS_PER_SECOND` each) a shape turns by 60 to 120 degrees to either side. The nearer shape hides the farther.

Shapes: H height · W width of a frame in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

CLASSES = ("background", "disc", "square", "triangle", "ring")
"""Names of the classes, by number."""

COLOURS = np.array([[96, 96, 104], [230, 159, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167]], np.float32)
"""RGB base colour of each class (Okabe and Ito's palette, which the colour-blind can tell apart)."""

BACKGROUND_METRES = 60.0
TURNS_PER_SECOND = 0.6
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
    radius: float
    angle: float
    spin: float
    depth_metres: float
    pattern: int
    """Which texture it wears."""


@dataclass(frozen=True)
class World:
    """The state of the world at one moment."""

    aspect: float
    shapes: tuple[Shape, ...]
    """Nearest last."""
    backdrop: int
    """Seed of the background's texture."""

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
    return World(aspect, tuple(_new_shape(chance, aspect, depth) for depth in depths), int(chance.integers(1 << 31)))


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
    image = COLOURS[0] * _backdrop(world.backdrop, world.aspect, height * fine, width * fine)[..., None]
    for shape in world.shapes:
        box, u, v = _around(shape, x, y)
        inside = _inside(shape.kind, u, v)
        image[box][inside] = COLOURS[shape.kind] * _texture(shape.pattern, u[inside], v[inside])[:, None]
    if fine > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    levels: np.ndarray = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return levels


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
) -> tuple[tuple[slice, slice], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Return the box of pixels that a shape can cover, and their coordinates on the shape, in its radii."""
    reach = LARGEST_REACH * shape.radius
    rows = slice(*np.searchsorted(y, (shape.y - reach, shape.y + reach)).tolist())
    columns = slice(*np.searchsorted(x, (shape.x - reach, shape.x + reach)).tolist())
    across, along = x[None, columns] - np.float32(shape.x), y[rows, None] - np.float32(shape.y)
    cos, sin = np.float32(math.cos(shape.angle)), np.float32(math.sin(shape.angle))
    radius = np.float32(shape.radius)
    return (rows, columns), (across * cos + along * sin) / radius, (along * cos - across * sin) / radius


def _inside(kind: int, u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    inside: np.ndarray
    match CLASSES[kind]:
        case "disc":
            inside = u**2 + v**2 < 1
        case "square":
            inside = np.maximum(np.abs(u), np.abs(v)) < 0.85
        case "triangle":
            inside = np.maximum(np.sqrt(3) * np.abs(u) + v, -2 * v) < 1.2
        case "ring":
            inside = np.abs(np.sqrt(u**2 + v**2) - 0.75) < 0.3
        case _:
            raise ValueError(f"kind is {kind}, expected 1 to {len(CLASSES) - 1}")
    return inside


def _texture(pattern: int, u: Float[np.ndarray, "N"], v: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Return the brightness of soft stripes, checks or rings, which are drawn on the shape and move with it."""
    waves = (np.sin(3.5 * u), np.sin(3 * u) * np.sin(3 * v), np.sin(4.5 * np.sqrt(u**2 + v**2)))
    brightness: np.ndarray = (0.85 + 0.25 * waves[pattern % len(waves)]).astype(np.float32)
    return brightness


@lru_cache(maxsize=8)
def _backdrop(seed: int, aspect: float, height: int, width: int) -> Float[np.ndarray, "H W"]:
    """Return the brightness of a still background of a few soft waves."""
    chance = np.random.default_rng(seed)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * (aspect / width))[None]
    light = np.ones((height, width), np.float32)
    for _ in range(4):
        fx, fy, phase = chance.uniform(-9, 9), chance.uniform(-9, 9), chance.uniform(0, 2 * math.pi)
        light += np.float32(0.12) * np.sin(np.float32(fx) * x + np.float32(fy) * y + np.float32(phase))
    return light


def _new_shape(chance: np.random.Generator, aspect: float, depth_metres: float) -> Shape:
    radius = float(chance.uniform(0.19, 0.29))
    return Shape(
        kind=int(chance.integers(1, len(CLASSES))),
        x=float(chance.uniform(radius, aspect - radius)),
        y=float(chance.uniform(radius, 1 - radius)),
        speed=float(chance.uniform(0.7, 1.5)),
        heading=float(chance.uniform(0, 2 * math.pi)),
        radius=radius,
        angle=float(chance.uniform(0, 2 * math.pi)),
        spin=float(chance.uniform(-1, 1)),
        depth_metres=float(depth_metres),
        pattern=int(chance.integers(3)),
    )


def _moved(shape: Shape, seconds: float, turn: float, aspect: float) -> Shape:
    heading = shape.heading + turn
    x, across = _bounced(shape.x + shape.speed * math.cos(heading) * seconds, shape.radius, aspect - shape.radius)
    y, along = _bounced(shape.y + shape.speed * math.sin(heading) * seconds, shape.radius, 1 - shape.radius)
    heading = math.atan2(along * math.sin(heading), across * math.cos(heading))
    return replace(shape, x=x, y=y, heading=heading, angle=shape.angle + shape.spin * seconds)


def _bounced(place: float, low: float, high: float) -> tuple[float, int]:
    """Return the place after at most one bounce off a wall, and −1 where it bounced."""
    if place < low:
        return 2 * low - place, -1
    if place > high:
        return 2 * high - place, -1
    return place, 1
