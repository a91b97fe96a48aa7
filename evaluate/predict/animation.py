"""Futures as an animation: one tile a future, side by side, played over the moments.

Takes one RGB picture a moment for each tile, writes a GIF. Predicted frames have an orange edge, frames that were seen
a blue one, and the time stands on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deltactl.evaluate.report.pictures import FAINT, GAP, LINE, MARGIN, SMALL_PIXELS, Canvas, format_time, shorten
from deltactl.featurize.pictures.lettering import legible
from deltactl.tasks.colours import Colour, Picture

TILE_PIXELS = 112
EDGE = 3
TEXT_WIDTH = 330
"""What the line above the tiles takes, in pixels."""
SEEN: Colour = (0, 114, 178)
PREDICTED: Colour = (213, 94, 0)
KEY = "blue edge: seen, orange: predicted"
FRAME_MILLISECONDS, LAST_MILLISECONDS = 400, 1600
COLOURS = 192
"""Of the palette that all frames share."""


@dataclass(frozen=True)
class Tile:
    """One film among several."""

    label: str
    pictures: tuple[Picture | None, ...]
    """One a moment; after the last one that is there, the tile stays empty."""
    seen: int
    """How many of them, from the first, were seen rather than predicted."""


def draw_moments(tiles: Sequence[Tile], times: Sequence[float], title: str) -> list[Picture]:
    """Return the pictures of the animation, one for each of `times` (seconds from the last context frame)."""
    first = next(picture for tile in tiles for picture in tile.pictures if picture is not None)
    height, width = TILE_PIXELS, max(1, round(TILE_PIXELS * first.shape[1] / first.shape[0]))
    cell_x, cell_y = width + 2 * EDGE + GAP, height + 2 * EDGE + LINE + GAP
    # About as wide as a screen is, and wide enough for the text.
    columns = min(len(tiles), max(math.ceil(TEXT_WIDTH / cell_x), round(math.sqrt(len(tiles) * 1.6 * cell_y / cell_x))))
    rows = math.ceil(len(tiles) / columns)
    room = max(TEXT_WIDTH, columns * cell_x - GAP)
    moments = []
    for moment, time in enumerate(times):
        canvas = Canvas(2 * MARGIN + room, 2 * MARGIN + 2 * LINE + rows * cell_y - GAP)
        canvas.text(MARGIN, MARGIN - 4, shorten(legible(title), room // 8))
        canvas.text(MARGIN, MARGIN - 4 + LINE, f"{format_time(time)} · {KEY}")
        for number, tile in enumerate(tiles):
            x, y = MARGIN + number % columns * cell_x, MARGIN + 2 * LINE + number // columns * cell_y
            canvas.text(x, y, tile.label, FAINT, SMALL_PIXELS)
            picture = tile.pictures[moment]
            if picture is not None:
                edge = SEEN if moment < tile.seen else PREDICTED
                canvas.box(x, y + LINE, width + 2 * EDGE, height + 2 * EDGE, edge)
                canvas.picture(x + EDGE, y + LINE + EDGE, picture, height, width)
        moments.append(canvas.pixels())
    return moments


def write_gif(path: Path, moments: Sequence[Picture]) -> None:
    """Write the pictures as a GIF that plays for ever and rests on its last one."""
    # One palette for all of them, or still parts would flicker.
    everything = Image.fromarray(np.concatenate(moments)).quantize(COLOURS, dither=Image.Dither.NONE)
    frames = [Image.fromarray(each).quantize(palette=everything, dither=Image.Dither.NONE) for each in moments]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
    )
