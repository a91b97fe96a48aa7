"""The report as one HTML page that needs nothing else: tables, charts, pictures with a slider, and what made them.

In come the numbers and pictures of an evaluation, out comes the text of the page (`report.html` and `report.js` beside
this file are its frame). Everything is inside: pictures are data URIs, charts SVG. A content security policy forbids
the page to load anything and to run any script but its own, so that a name read from a data set cannot do harm either.
With three clips and twenty samples it is about 1 to 3 MB.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from deltactl.evaluate.charts import best_of_k_panels, draw_panels, drift_panels
from deltactl.evaluate.clip_pictures import ClipPictures, SampleRow
from deltactl.evaluate.pictures import Legend, Panel, Picture, Row, fitted, format_time
from deltactl.evaluate.table import tables

PHOTOGRAPH_PIXELS = 144
"""Side at which photographs are kept; they are shown at 96, finer on fine screens."""
JPEG_QUALITY = 82
HERE = Path(__file__).parent
NOTES = {
    "Best of the first k samples": "Choosing with the truth at hand gains by itself; the noise null in the table says "
    "how much of it is only that.",
    "Drift of one long rollout": "Distance to the truth at every step, the same measure for all methods.",
}


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
    metrics = content.metrics
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    first, *others = tables(metrics)
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "title": escape(f"deltactl eval: {metrics['dataset']}"),
        "summary": _summary(metrics, content.provenance),
        "tables": _numbers(first)
        + _details("Beyond the published table", "".join(map(_numbers, others)), bool(others)),
        "charts": _charts(metrics),
        "clips": _clips(content.clips),
        "facts": "".join(
            _details(heading, _facts(facts))
            for heading, facts in (
                ("Configuration", content.configuration),
                ("Identity", content.identity),
                ("Provenance", content.provenance),
            )
        ),
        "script": script,
    }
    page = (HERE / "report.html").read_text(encoding="utf-8")
    # Split at the marks of the frame, so that what is put in is never searched for marks.
    pieces = page.split("{{")
    return pieces[0] + "".join(_filled(piece, parts) for piece in pieces[1:])


def _filled(piece: str, parts: Mapping[str, str]) -> str:
    name, _, rest = piece.partition("}}")
    return parts[name] + rest


# --- numbers ---------------------------------------------------------------------------------------------------------


def _summary(metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    quarantined = f", {metrics['quarantined']:,} could not be used" if metrics.get("quarantined") else ""
    lines = [
        f"{metrics['clips']:,} clips at {metrics['size']} px{quarantined}; {metrics['context']} frames of context, "
        f"{metrics['samples']} samples, seed {metrics['seed']}",
        f"deltactl {provenance['versions']['deltactl']}, {provenance.get('time', '')}",
    ]
    return "".join(f'<p class="faint">{escape(line)}</p>' for line in lines)


def _numbers(table: Table) -> str:
    """Return one of the terminal's tables as HTML."""
    left = [column.justify == "left" for column in table.columns]
    names = [str(column.header) for column in table.columns]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    bodies: list[list[str]] = [[]]
    for number, row in enumerate(table.rows):
        texts = [column[number] for column in cells]
        bodies[-1].append("<tr>" + "".join(map(_cell, texts, left)) + "</tr>")
        if row.end_section:
            bodies.append([])
    head = "".join(
        f'<th scope="col"{_left(is_left)}>{escape(name)}</th>' for name, is_left in zip(names, left, strict=True)
    )
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies if rows)
    note = "".join(f'<p class="faint">{escape(line)}</p>' for line in str(table.caption or "").splitlines())
    caption = f"<caption>{escape(str(table.title or ''))}</caption>"
    return f'<div class="wide"><table class="numbers">{caption}<thead><tr>{head}</tr></thead>{body}</table></div>{note}'


def _cell(text: str, is_left: bool) -> str:
    return f"<td{_left(is_left)}>{escape(text)}</td>"


def _left(is_left: bool) -> str:
    return ' class="left"' if is_left else ""


def _charts(metrics: Mapping[str, Any]) -> str:
    figures = []
    for panels in (best_of_k_panels(metrics), drift_panels(metrics)):
        if panels:
            title = panels[0].title
            svg = draw_panels(panels).replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
            note = escape(NOTES[title])
            figures.append(f'<figure>{svg}<figcaption class="faint">{note}</figcaption></figure>')
    if not figures:
        return ""
    return f'<section aria-labelledby="charts"><h2 id="charts">Charts</h2>{"".join(figures)}</section>'


# --- pictures --------------------------------------------------------------------------------------------------------


def _clips(clips: Iterable[ClipPictures]) -> str:
    sections = "".join(_clip(number, clip) for number, clip in enumerate(clips, start=1))
    return f'<section aria-labelledby="clips"><h2 id="clips">Clips</h2>{sections}</section>' if sections else ""


def _clip(number: int, clip: ClipPictures) -> str:
    sheet = clip.sheet
    captions, best = _captions(clip.losses)
    samples = {drawn.rendering: drawn for drawn in clip.samples}
    tables = "".join(_panel(panel, samples.get(panel.title), best) for panel in sheet.panels)
    notes = "".join(f'<p class="faint">{escape(note)}</p>' for note in sheet.notes)
    return (
        f'<section data-clip="{number}" aria-labelledby="clip{number}">'
        f'<h3 id="clip{number}">{escape(sheet.title)}</h3>{notes}{_slider(number, clip, captions, best)}'
        f'<div class="panels">{tables}</div>{"".join(map(_legend, sheet.legends))}</section>'
    )


def _panel(panel: Panel, drawn: SampleRow | None, best: int) -> str:
    """Return a panel as a table, with the row whose pictures follow the slider where there are samples."""
    rows = [_picture_row(row, panel.context) for row in panel.rows]
    if drawn is not None and not panel.context:
        label = f"one of {len(drawn.pictures)} samples"
        row = Row(label, drawn.pictures[best], photographic=drawn.photographic)
        rows.append(_picture_row(row, panel.context, kind="sample"))
    times = "".join(
        f"<td{_future(place, panel.context)}>{escape(format_time(time))}</td>" for place, time in enumerate(panel.times)
    )
    return (
        f'<div class="wide"><table class="pictures"><caption>{escape(panel.title)}</caption>'
        f"<thead><tr><td></td>{times}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _captions(losses: tuple[float, ...]) -> tuple[list[str], int]:
    """Return what the slider says at each sample, and the number of the best."""
    best = losses.index(min(losses)) if losses else 0
    captions = [
        f"sample {number} (of {len(losses)}, from 0), loss {loss:.4f}{', the best' if number == best else ''}"
        for number, loss in enumerate(losses)
    ]
    return captions, best


def _slider(number: int, clip: ClipPictures, captions: list[str], best: int) -> str:
    if not clip.samples:
        return ""
    pictures = [
        [[_data_uri(picture, row.photographic) for picture in sample] for sample in row.pictures]
        for row in clip.samples
    ]
    # "<" is escaped, so that nothing in it can end the element.
    data = json.dumps({"captions": captions, "pictures": pictures}, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="slider" hidden><label for="sample{number}">DeltaWorld</label>'
        f'<input id="sample{number}" type="range" min="0" max="{len(captions) - 1}" value="{best}" step="1">'
        f'<output for="sample{number}">{escape(captions[best])}</output></div>'
        f'<script type="application/json">{data}</script>'
    )


def _picture_row(row: Row, context: int, kind: str = "") -> str:
    cells = []
    for place, picture in enumerate(row.pictures):
        image = "" if picture is None else _image(picture, f"{row.label}, column {place + 1}", row.photographic)
        cells.append(f"<td{_future(place, context)}>{image}</td>")
    name = f' class="{kind}"' if kind else ""
    note = f'<br><small class="faint">{escape(row.note)}</small>' if row.note else ""
    return f'<tr{name}><th scope="row">{escape(row.label)}{note}</th>{"".join(cells)}</tr>'


def _future(place: int, context: int) -> str:
    """Return the mark of the first column that was predicted."""
    return ' class="future"' if 0 < place == context else ""


def _image(picture: Picture, alt: str, photographic: bool) -> str:
    kind = "" if photographic else ' class="patches"'
    return f'<img{kind} alt="{escape(alt)}" src="{_data_uri(picture, photographic)}">'


def _data_uri(picture: Picture, photographic: bool) -> str:
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


def _legend(legend: Legend) -> str:
    entries = "".join(
        f'<li><svg viewBox="-1 -1 11 11" aria-hidden="true"><rect width="9" height="9" stroke="#5a5a66" '
        f'fill="rgb{entry.colour}"/></svg>{escape(entry.name)}</li>'
        for entry in legend.entries
    )
    return (
        f'<ul class="legend" aria-label="{escape(legend.title)}"><li><b>{escape(legend.title)}</b></li>{entries}</ul>'
    )


# --- facts -----------------------------------------------------------------------------------------------------------


def _details(heading: str, inside: str, there: bool = True) -> str:
    return f"<details><summary>{escape(heading)}</summary>{inside}</details>" if there else ""


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in _flat(facts)
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
