"""Sheets of pictures: labelled rows of frames, one column a moment, its time in seconds underneath.

In come rows of RGB pictures of any size (frames, feature colours, class maps, depth), out comes one RGB picture to be
written as PNG. Columns after the context are set apart, so that what was seen and what was predicted cannot be taken
for each other. Small pictures (a grid of patches) are enlarged without smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from deltactl.evaluate.colours import LegendEntry

Picture = UInt8[np.ndarray, "_ _ 3"]
"""RGB of any size."""

TILE_PIXELS = 128
"""Height of one picture on a sheet."""
GAP, MARGIN, LINE = 4, 12, 18
TEXT_PIXELS, SMALL_PIXELS = 13, 12
INK, FAINT, PAPER, DIVIDER = (20, 20, 20), (95, 95, 95), (255, 255, 255), (213, 94, 0)
LONGEST_TITLE = 110
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Row:
    """One row of a sheet."""

    label: str
    pictures: tuple[Picture | None, ...]
    """One for each column; None leaves it empty."""
    note: str = ""
    """A second, smaller line under the label."""


@dataclass(frozen=True)
class Legend:
    """What the colours of some rows stand for."""

    title: str
    entries: tuple[LegendEntry, ...]


@dataclass(frozen=True)
class Sheet:
    """What one picture shows."""

    title: str
    times: tuple[float, ...]
    """Of each column, in seconds from the last context frame."""
    context: int
    """How many of the columns are context."""
    rows: tuple[Row, ...]
    legends: tuple[Legend, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Sentences for the foot."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.pictures) != len(self.times):
                raise ValueError(
                    f"row {row.label!r} has {len(row.pictures)} pictures, but there are {len(self.times)} columns"
                )


def draw_sheet(sheet: Sheet, tile_pixels: int = TILE_PIXELS) -> Picture:
    """Return the sheet as one picture."""
    height, width = tile_pixels, tile_width(sheet, tile_pixels)
    left = MARGIN + max(_width(text) for row in sheet.rows for text in (row.label, row.note)) + MARGIN
    top = MARGIN + 2 * LINE + GAP
    step_x, step_y = width + GAP, height + GAP
    columns = [left + number * step_x + (2 * GAP if number >= sheet.context else 0) for number in range(_count(sheet))]
    right = columns[-1] + width + MARGIN
    title = shorten(sheet.title, LONGEST_TITLE)
    below = top + len(sheet.rows) * step_y
    legend = [line for each in sheet.legends for line in _flow_legend(each, right - left)]
    image_width = max(right, MARGIN + _width(title) + MARGIN, *(left + _width(note) for note in sheet.notes), 0)
    image_height = below + LINE + GAP + LINE * (len(legend) + len(sheet.notes)) + MARGIN
    image = Image.new("RGB", (image_width, image_height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, INK, font(TEXT_PIXELS))
    draw.text((columns[0], MARGIN + LINE), "context", FAINT, font(SMALL_PIXELS))
    if _count(sheet) > sheet.context:
        draw.text((columns[sheet.context], MARGIN + LINE), "future", FAINT, font(SMALL_PIXELS))
        line = columns[sheet.context] - 2 * GAP + GAP // 2
        draw.line((line, top - GAP, line, below), DIVIDER, 2)
    for number, row in enumerate(sheet.rows):
        y = top + number * step_y
        draw.text((MARGIN, y + height // 2), row.label, INK, font(TEXT_PIXELS), anchor="ld" if row.note else "lm")
        draw.text((MARGIN, y + height // 2 + 2), row.note, FAINT, font(SMALL_PIXELS), anchor="la")
        for x, picture in zip(columns, row.pictures, strict=True):
            if picture is not None:
                image.paste(Image.fromarray(fitted(picture, height, width)), (x, y))
    for x, time in zip(columns, sheet.times, strict=True):
        draw.text((x + width // 2, below), format_time(time), INK, font(TEXT_PIXELS), anchor="ma")
    y = below + LINE + GAP
    for title, entries in legend:
        draw.text((left - MARGIN, y), title, INK, font(SMALL_PIXELS), anchor="ra")
        _draw_legend(draw, left, y, entries)
        y += LINE
    for note in sheet.notes:
        draw.text((left, y), note, FAINT, font(SMALL_PIXELS))
        y += LINE
    return np.asarray(image)


def tile_width(sheet: Sheet, tile_pixels: int) -> int:
    """Return the width of the sheet's tiles: that of its first picture's shape."""
    first = next(picture for row in sheet.rows for picture in row.pictures if picture is not None)
    height, width = map(int, first.shape[:2])
    return max(1, round(tile_pixels * width / height))


def fitted(picture: Picture, height: int, width: int) -> Picture:
    """Return a picture at another size: averaged where it shrinks, in blocks where it is enlarged."""
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = picture.shape[0] > height
    return np.asarray(
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
    )


def format_time(seconds: float) -> str:
    """Return a time relative to the present, such as `+0.2 s`."""
    shown = f"{abs(seconds):.2f}".rstrip("0").rstrip(".")
    return f"{'+' if seconds > 0 else MINUS}{shown} s" if shown != "0" else "0 s"


def shorten(text: str, longest: int) -> str:
    """Return the text with its middle left out where it is longer than `longest` characters."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


@lru_cache
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own DejaVu Sans, which every installation has."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", pixels)


def write_png(path: Path, picture: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write an 8-bit picture, RGB or one channel."""
    Image.fromarray(picture).save(path, format="PNG", optimize=True)


def _count(sheet: Sheet) -> int:
    return len(sheet.times)


def _width(text: str) -> int:
    return round(font(TEXT_PIXELS).getlength(text))


def _flow_legend(legend: Legend, width: int) -> list[tuple[str, list[LegendEntry]]]:
    """Break a legend into lines, the first of which carries its title."""
    lines: list[tuple[str, list[LegendEntry]]] = []
    used = width
    for entry in legend.entries:
        need = _entry_width(entry)
        if used + need > width:
            lines.append(("" if lines else legend.title, []))
            used = 0
        lines[-1][1].append(entry)
        used += need
    return lines


def _entry_width(entry: LegendEntry) -> int:
    return LINE + _width(entry.name) + MARGIN


def _draw_legend(draw: ImageDraw.ImageDraw, x: int, y: int, entries: Sequence[LegendEntry]) -> None:
    for entry in entries:
        draw.rectangle((x, y + 1, x + LINE - 6, y + LINE - 5), entry.colour, FAINT)
        draw.text((x + LINE, y), entry.name, INK, font(SMALL_PIXELS))
        x += _entry_width(entry)
