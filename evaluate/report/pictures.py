"""Sheets of pictures: panels of labelled rows of frames, one column a moment, its time in seconds above it.

Takes rows of RGB pictures of any size (frames, feature colours, class maps, depth), returns one RGB picture to be
written as PNG. A panel has the columns that its rows fill: the context with what came after it, or the future alone. A
panel of both has a line between them. Small pictures (a grid of patches) are enlarged without smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from deltactl.featurize.pictures.lettering import draw_text, legible, text_width
from deltactl.tasks.colours import Colour, LegendEntry, Picture

TILE_PIXELS = 128
"""Height of one picture on a sheet."""
GAP, MARGIN, LINE = 4, 12, 18
TEXT_PIXELS, SMALL_PIXELS = 13, 12
INK, FAINT, PAPER, DIVIDER = (20, 20, 20), (95, 95, 95), (255, 255, 255), (213, 94, 0)
LONGEST_TITLE = 110
WIDER = 1.3
"""How many times the width of the widest panel the panels side by side may take."""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class PictureRow:
    """One row of a panel."""

    label: str
    pictures: tuple[Picture | None, ...]
    """One for each column; None where there is none, as for a frame without a label."""
    note: str = ""
    """A second, smaller line under the label."""
    photographic: bool = False
    """Whether its pictures are like photographs, better kept as JPEG than as PNG."""


@dataclass(frozen=True)
class Panel:
    """Rows over the same moments."""

    title: str
    times: tuple[float, ...]
    """Of each column, in seconds from the last context frame."""
    context: int
    """How many of the columns are context; 0 for a panel of the future alone."""
    rows: tuple[PictureRow, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.pictures) != len(self.times):
                raise ValueError(
                    f"row {row.label!r} has {len(row.pictures)} pictures, but there are {len(self.times)} columns"
                )


@dataclass(frozen=True)
class Legend:
    """What the colours of some rows stand for."""

    title: str
    entries: tuple[LegendEntry, ...]


@dataclass(frozen=True)
class Sheet:
    """What one picture shows."""

    title: str
    panels: tuple[Panel, ...]
    """In the order of reading: from left to right as far as the sheet is wide, then from top to bottom."""
    legends: tuple[Legend, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Sentences for the foot."""

    @property
    def shape(self) -> float:
        """Width over height of its tiles: that of its first picture."""
        rows = (row for panel in self.panels for row in panel.rows)
        first = next(picture for row in rows for picture in row.pictures if picture is not None)
        return float(first.shape[1] / first.shape[0])


class Canvas:
    """White paper of a size in pixels, and what is drawn on it; places are left upper corners."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, x: int, y: int, text: str, colour: Colour = INK, pixels: int = TEXT_PIXELS, anchor: str = "la"
    ) -> None:
        """Draw a line of text; `anchor` says, as Pillow has it, which of its points lies at the place."""
        draw_text(self._draw, (x, y), text, colour, pixels, anchor)

    def picture(self, x: int, y: int, picture: Picture, height: int, width: int) -> None:
        """Draw a picture at another size."""
        self._image.paste(Image.fromarray(fitted(picture, height, width)), (x, y))

    def box(self, x: int, y: int, width: int, height: int, colour: Colour, outline: Colour | None = None) -> None:
        """Draw a filled box."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), colour, outline)

    def pixels(self) -> Picture:
        """Return what was drawn."""
        return np.asarray(self._image)


def draw_sheet(sheet: Sheet, tile_pixels: int = TILE_PIXELS) -> Picture:
    """Return the sheet as one picture."""
    layout = _Layout.of(sheet, tile_pixels)
    places, width, below = layout.places(sheet.panels)
    title = shorten(legible(sheet.title), LONGEST_TITLE)
    legend = [line for each in sheet.legends for line in _flow_legend(each, width - layout.left)]
    notes = [_text_width(note) + layout.left for note in sheet.notes]
    canvas = Canvas(
        MARGIN + max(width, _text_width(title), *notes, 0) + MARGIN,
        below + GAP + LINE * (len(legend) + len(sheet.notes)) + MARGIN,
    )
    canvas.text(MARGIN, MARGIN, title)
    for panel, place in zip(sheet.panels, places, strict=True):
        _draw_panel(canvas, panel, layout, place)
    y = below + GAP
    for name, entries in legend:
        canvas.text(layout.left, y, name, INK, SMALL_PIXELS, "ra")
        _draw_legend(canvas, MARGIN + layout.left, y, entries)
        y += LINE
    for note in sheet.notes:
        canvas.text(MARGIN + layout.left, y, note, FAINT, SMALL_PIXELS)
        y += LINE
    return canvas.pixels()


@dataclass(frozen=True)
class _Layout:
    """The measures that all panels of a sheet share, in pixels."""

    height: int
    """Of a tile."""
    width: int
    left: int
    """What the labels take, before the first column."""

    @classmethod
    def of(cls, sheet: Sheet, tile_pixels: int) -> _Layout:
        """Return the measures for a sheet: tiles of the shape of its first picture, room for its longest label."""
        rows = [row for panel in sheet.panels for row in panel.rows]
        labels = [_text_width(text) for row in rows for text in (row.label, row.note)]
        labels += [_text_width(legend.title) for legend in sheet.legends]
        width = max(1, round(tile_pixels * sheet.shape))
        return cls(tile_pixels, width, max(labels) + MARGIN)

    def columns(self, panel: Panel) -> list[int]:
        """Return where each column begins, from the panel's left edge."""
        apart = [2 * GAP if 0 < panel.context <= number else 0 for number in range(len(panel.times))]
        return [self.left + number * (self.width + GAP) + extra for number, extra in enumerate(apart)]

    def size(self, panel: Panel) -> tuple[int, int]:
        """Return a panel's height and width."""
        return 2 * LINE + len(panel.rows) * (self.height + GAP), self.columns(panel)[-1] + self.width

    def places(self, panels: Sequence[Panel]) -> tuple[list[tuple[int, int]], int, int]:
        """Return the left upper corner of each panel, the width that they take together, and where they end below."""
        widest = WIDER * max(self.size(panel)[1] for panel in panels)
        places: list[tuple[int, int]] = []
        x, y, line_height, right = 0, MARGIN + LINE + LINE // 2, 0, 0
        for panel in panels:
            height, width = self.size(panel)
            if x and x + width > widest:
                x, y, line_height = 0, y + line_height + LINE // 2, 0
            places.append((MARGIN + x, y))
            line_height, right = max(line_height, height), max(right, x + width)
            x += width + 2 * MARGIN
        return places, right, y + line_height


def _draw_panel(canvas: Canvas, panel: Panel, layout: _Layout, place: tuple[int, int]) -> None:
    x, y = place
    columns = [x + column for column in layout.columns(panel)]
    top = y + 2 * LINE
    canvas.text(x, y, panel.title)
    for left, time in zip(columns, panel.times, strict=True):
        canvas.text(left + layout.width // 2, y + LINE, format_time(time), FAINT, SMALL_PIXELS, "ma")
    if 0 < panel.context < len(columns):
        line = columns[panel.context] - 2 * GAP + GAP // 2
        canvas.box(line, y + LINE, 2, LINE + len(panel.rows) * (layout.height + GAP) + 1, DIVIDER)
    for number, row in enumerate(panel.rows):
        row_top = top + number * (layout.height + GAP)
        middle = row_top + layout.height // 2
        canvas.text(x, middle, row.label, anchor="ld" if row.note else "lm")
        canvas.text(x, middle + 2, row.note, FAINT, SMALL_PIXELS)
        for left, picture in zip(columns, row.pictures, strict=True):
            if picture is not None:
                canvas.picture(left, row_top, picture, layout.height, layout.width)


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


def format_span(start: float, end: float) -> str:
    """Return from when to when a clip goes, in seconds of its source, such as `3.2 to 4.4 s`."""
    return f"{start:.2f}".rstrip("0").rstrip(".") + " to " + f"{end:.2f}".rstrip("0").rstrip(".") + " s"


def shorten(text: str, longest: int) -> str:
    """Return the text with its middle left out where it is longer than `longest` characters."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def write_png(path: Path, picture: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write an 8-bit picture, RGB or one channel."""
    Image.fromarray(picture).save(path, format="PNG", optimize=True)


def _text_width(text: str) -> int:
    return text_width(text, TEXT_PIXELS)


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
    return LINE + _text_width(entry.name) + MARGIN


def _draw_legend(canvas: Canvas, x: int, y: int, entries: Sequence[LegendEntry]) -> None:
    for entry in entries:
        canvas.box(x, y + 1, LINE - 5, LINE - 5, entry.colour, FAINT)
        canvas.text(x + LINE, y, entry.name, INK, SMALL_PIXELS)
        x += _entry_width(entry)
