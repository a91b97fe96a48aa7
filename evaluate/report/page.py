"""The report as one HTML page that needs nothing else: tables, charts, pictures with a slider, and what made them.

Takes the numbers and pictures of an evaluation, returns the text of the page, from `report.html.jinja` beside this file
and `report.js`. Pictures are data URIs, charts SVG. A name read from a data set can do no harm: the template escapes
all that is put in, and a content security policy forbids the page to load anything and to run any script but its own.
With three clips and twenty samples it is about 1 to 3 MB.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from rich.table import Table

from deltactl.evaluate.report.charts import POLICY, draw_chart, line_charts
from deltactl.evaluate.report.clip_pictures import ClipPictures
from deltactl.evaluate.report.interval_chart import difference_charts, draw_intervals
from deltactl.evaluate.report.pictures import fitted, format_time
from deltactl.evaluate.report.table import class_tables, interval_tables, rows_table, small_tables
from deltactl.tasks.colours import Picture

PHOTOGRAPH_PIXELS = 144
"""Side at which photographs are kept; they are shown at 96, finer on fine screens."""
JPEG_QUALITY = 82
HERE = Path(__file__).parent


@dataclass(frozen=True)
class ReportContent:
    """What a page says."""

    metrics: Mapping[str, Any]
    """The content of `metrics.json`."""
    configuration: Mapping[str, Any]
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    clips: tuple[ClipPictures, ...]


def report_page(content: ReportContent) -> str:
    """Return the page."""
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = page_environment().get_template("report.html.jinja")
    return template.render(
        content=content,
        metrics=content.metrics,
        policy=f"{POLICY}; script-src 'sha256-{digest}'",
        script=script,
        main=numbers_of(rows_table(content.metrics)),
        beside=[numbers_of(table) for table in interval_tables(content.metrics)],
        others=[numbers_of(table) for table in small_tables(content.metrics)],
        classes=[numbers_of(table) for table in class_tables(content.metrics)],
        charts=[
            *((draw_intervals(chart), chart.note) for chart in difference_charts(content.metrics)),
            *((draw_chart(chart), chart.note) for chart in line_charts(content.metrics)),
        ],
        facts={
            "Configuration": _flat(content.configuration),
            "Identity": _flat(content.identity),
            "Provenance": _flat(content.provenance),
        },
    )


def page_environment(*folders: Path) -> Environment:
    """Return what fills the templates of pages in, of other `folders` too, escaping all that is put in."""
    environment = Environment(
        loader=FileSystemLoader([HERE, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, time=format_time)
    environment.globals.update(slider=slider_data)
    return environment


@dataclass(frozen=True)
class NumbersTable:
    """One of the terminal's tables, as cells."""

    title: str
    columns: tuple[tuple[str, bool], ...]
    """Header of each column, and whether it is set to the left."""
    sections: tuple[tuple[tuple[str, ...], ...], ...]
    """Rows of texts, in groups that a line parts."""
    notes: tuple[str, ...]


def numbers_of(table: Table) -> NumbersTable:
    """Return the content of a terminal's table."""
    rows = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    ends = [number + 1 for number, row in enumerate(table.rows) if row.end_section]
    bounds = sorted({0, *ends, len(rows)})
    return NumbersTable(
        str(table.title or ""),
        tuple((str(column.header), column.justify == "left") for column in table.columns),
        tuple(tuple(rows[start:end]) for start, end in itertools.pairwise(bounds)),
        tuple(str(table.caption or "").splitlines()),
    )


def data_uri(picture: Picture, photographic: bool) -> str:
    """Return a picture as an address that holds it: photographs as JPEG, all else as PNG."""
    data = io.BytesIO()
    if photographic:
        longest = max(picture.shape[:2])
        if longest > PHOTOGRAPH_PIXELS:
            height, width = (round(side * PHOTOGRAPH_PIXELS / longest) for side in picture.shape[:2])
            picture = fitted(picture, height, width)
        Image.fromarray(picture).save(data, format="JPEG", quality=JPEG_QUALITY)
        kind = "jpeg"
    else:
        Image.fromarray(picture).save(data, format="PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def slider_data(clip: ClipPictures) -> dict[str, list[Any]]:
    """Return what the page's script shows of a clip's samples: a caption each, and pictures by rendering and step."""
    return {
        "captions": clip.captions,
        "pictures": [
            [[data_uri(picture, row.photographic) for picture in sample] for sample in row.pictures]
            for row in clip.samples
        ],
    }


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts with dotted names."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
