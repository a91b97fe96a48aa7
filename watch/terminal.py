"""A run in the terminal: how far it is, what is not healthy, the newest figures, charts, and the newest picture.

Everything fits the width, 80 columns or more. Lines of training are drawn in braille dots, validations as crosses over
them, so that they differ without colour too; where the terminal's encoding lacks these, in plain characters.
"""

from __future__ import annotations

import io
import itertools

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from deltactl.locations import Location
from deltactl.redaction import printable
from deltactl.watch.charts import Chart, charts_of
from deltactl.watch.figures import Reading
from deltactl.watch.state import Moment

WIDEST = 120
LABEL = 9
"""Columns left of a chart."""
MOST_ROWS = 24
"""Of the table of figures."""
LARGE, SMALL = 8, 5
"""Rows of a chart."""
SMALLEST_PICTURE, LARGEST_PICTURE = 8, 30
COLOURFUL = ("256", "truecolor")
AROUND = 3
"""Rows of a chart's title, axis and steps."""
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character, by column and row."""


def view(moment: Moment, console: Console, *, rows: int | None = None) -> list[RenderableType]:
    """Return a run for a console, in at most so many rows: the charts that there is room for, then the table."""
    width = min(console.width, WIDEST)
    plain = not _can_draw(console)
    parts = head(moment, width, plain=plain)
    left = 10_000 if rows is None else rows - _height(parts, console)
    table: list[RenderableType] = [figures_table(moment.readings, plain=plain)] if moment.readings else []
    table += [Text(printable(f"picture: {each}"), overflow="fold") for each in moment.pictures]
    if (height := _height(table, console)) <= left - (LARGE + SMALL + 2 * AROUND):
        parts += table
        left -= height
    charts = charts_of(moment.curves.by_name)
    if charts and left >= LARGE + AROUND:
        parts += chart_lines(charts.pop(0), width, LARGE, plain=plain)
        left -= LARGE + AROUND
    columns = (width + 2) // 40
    small = (width - 2 * (columns - 1)) // columns
    while charts and left >= SMALL + AROUND:
        row, charts = charts[:columns], charts[columns:]
        parts += _beside([chart_lines(each, small, SMALL, plain=plain) for each in row], small)
        left -= SMALL + AROUND
    if moment.pictures and left >= SMALLEST_PICTURE and console.color_system in COLOURFUL and not plain:
        parts += picture_lines(moment.pictures[0], width, min(left, LARGEST_PICTURE))
    return parts


def head(moment: Moment, width: int, *, plain: bool) -> list[RenderableType]:
    """Return what stands above the charts."""
    parts: list[RenderableType] = [Text(printable(moment.title()), style="bold", no_wrap=True, overflow="ellipsis")]
    line = Text(moment.progress())
    if moment.share is not None:
        cells = max(10, width - len(line) - 2)
        full = round(moment.share * cells)
        line.append("  ").append(("#" if plain else "━") * full, "green").append(
            ("." if plain else "─") * (cells - full), "dim"
        )
    parts.append(line)
    parts += [Text(printable(text)) for text in (moment.pace(), moment.note()) if text]
    parts += [Text.assemble(("warning: ", "bold yellow"), printable(each)) for each in moment.warnings]
    return parts


def _height(parts: list[RenderableType], console: Console) -> int:
    return sum(len(console.render_lines(part)) for part in parts)


def figures_table(readings: list[Reading], *, plain: bool) -> Table:
    """Return the newest figures with their units, and what is healthy."""
    table = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    for name, side in (("figure", "left"), ("newest", "right"), ("step", "right"), ("healthy", "left"), ("", "left")):
        table.add_column(name, justify=side, no_wrap=name != "figure", overflow="fold")  # type: ignore[arg-type]
    for each in readings[:MOST_ROWS]:
        verdict = Text(each.verdict, "bold yellow" if each.sick else "green")
        table.add_row(printable(each.column), each.text, f"{each.step:,}", each.figure.healthy, verdict)
    if (more := len(readings) - MOST_ROWS) > 0:
        table.add_row(f"and {more:,} more in metrics.csv")
    return table


def chart_lines(chart: Chart, width: int, height: int, *, plain: bool) -> list[Text]:
    """Return a chart as lines of text, none wider than `width`: title, `height` rows, axis, steps."""
    inner = width - LABEL - 1
    axis = chart.axis()
    title = Text(printable(chart.title), "bold")
    if chart.newest_line:
        title.append(f"  {'*' if plain else '─'} train {chart.newest_line}", "cyan")
    if chart.newest_marks:
        title.append(f"  {'x' if plain else '×'} validation {chart.newest_marks}", "yellow")
    if axis.is_log:
        title.append("  log", "dim")
    title.truncate(width, overflow="ellipsis" if not plain else "crop")
    labels = {round((1 - place) * (height - 1)): text for place, text in axis.labels(3 if height > SMALL else 2)}
    lines = [title]
    mark = "x" if plain else "×"
    marks = {(_cell(point.step, chart.last_step, inner), _row(axis.place(point.mean), height)) for point in chart.marks}
    for row, drawn in enumerate(_drawn(chart, inner, height, plain=plain)):
        line = Text.assemble((f"{labels.get(row, ''):>{LABEL - 1}} {'|' if plain else '│'}", "dim"))
        marked = {column for column, of_row in marks if of_row == row}
        for is_mark, columns in itertools.groupby(range(inner), marked.__contains__):
            text = "".join(mark if is_mark else drawn[column] for column in columns)
            line.append(text, "yellow" if is_mark else "cyan")
        lines.append(line)
    corner, bar = ("+", "-") if plain else ("└", "─")
    lines.append(Text(f"{'':{LABEL}}{corner}{bar * inner}", "dim"))
    end = f"{chart.last_step:,.0f} steps"
    lines.append(Text(f"{'':{LABEL}} 0{end:>{inner - 1}}", "dim"))
    return lines


def _drawn(chart: Chart, width: int, height: int, *, plain: bool) -> list[list[str]]:
    """Return the characters of the line: braille dots, or stars."""
    across, down = (1, 1) if plain else (2, 4)
    grid = [[0] * width for _ in range(height)]
    axis, last = chart.axis(), chart.last_step

    def dot(x: int, y: int) -> None:
        bit = 1 if plain else DOTS[x % 2][y % 4]
        grid[y // down][x // across] |= bit

    places = [
        (_cell(point.step, last, width * across), _row(axis.place(point.mean), height * down)) for point in chart.line
    ]
    for (x0, y0), (x, y) in zip(places[:1] + places[:-1], places, strict=True):
        at = y0
        for column in range(min(x0 + 1, x), x + 1):
            # From where the column before ended: steep lines have no holes.
            below, at = at, y if column == x else round(y0 + (y - y0) * (column - x0) / (x - x0))
            for row in range(min(below, at), max(below, at) + 1):
                dot(column, row)
    if plain:
        return [["*" if cell else " " for cell in row] for row in grid]
    return [[chr(0x2800 + cell) if cell else " " for cell in row] for row in grid]


def _cell(step: float, last: float, width: int) -> int:
    return min(width - 1, int(step / last * (width - 1) + 0.5))


def _row(place: float, height: int) -> int:
    return round((1 - place) * (height - 1))


def _beside(charts: list[list[Text]], width: int) -> list[Text]:
    lines = []
    for row in zip(*charts, strict=True):
        line = Text()
        for number, each in enumerate(row):
            line.append_text(each)
            if number < len(row) - 1:
                line.append(" " * (width - each.cell_len + 2))
        lines.append(line)
    return lines


def picture_lines(place: Location, width: int, rows: int) -> list[Text]:
    """Return a picture as half blocks, two pixels a character; nothing where it cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(place.read_bytes())) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return []
    scale = min(width / image.width, 2 * rows / image.height)
    size = max(1, int(image.width * scale)), max(2, int(image.height * scale) // 2 * 2)
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line = Text()
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", f"rgb({top[0]},{top[1]},{top[2]}) on rgb({bottom[0]},{bottom[1]},{bottom[2]})")
        lines.append(line)
    return lines


def _can_draw(console: Console) -> bool:
    """Whether the encoding has all characters that charts are made of."""
    try:
        "⣿━─│└×▀…".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
