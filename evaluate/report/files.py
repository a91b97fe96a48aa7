"""The files of a report, published together.

metrics.json        all numbers; the marker, written last
videos.npz          what each video adds to each row (`protocol.videos`), from which reports are compared
report.html         tables, charts, pictures and what made them, on one page that needs nothing else, to be passed on
picture-N.png       the pictures of each clip that the page shows, as sheets
artifact.json       identity and provenance
quarantine.jsonl    what could not be used
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import (
    HEADER,
    QUARANTINE,
    Identity,
    Quarantined,
    make_provenance,
    quarantine_bytes,
    seal,
)
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.evaluate.protocol.videos import VideoSums
from deltactl.evaluate.report.clip_pictures import ClipPictures
from deltactl.evaluate.report.describe import METRICS_FILE, VIDEOS_FILE
from deltactl.evaluate.report.page import ReportContent, report_page
from deltactl.evaluate.report.pictures import draw_sheet, write_png
from deltactl.locations import Location
from deltactl.publication import publishable
from deltactl.redaction import redacted
from deltactl.staging import publish_files

LIBRARIES = ("torch", "transformers", "numpy", "opencv-python-headless")
KIND = "report"
PAGE = "report.html"
PICTURE = re.compile(r"picture-\d+\.png")


@dataclass(frozen=True)
class Written:
    """What a report is made of."""

    metrics: dict[str, Any]
    """The content of `metrics.json`."""
    sums: VideoSums
    quarantined: Sequence[Quarantined]
    clips: Sequence[ClipPictures]


def publish(folder: Location, config: EvaluateConfig, identity: Identity, written: Written) -> int:
    """Write the report's files, `metrics.json` last, and return their bytes; an earlier evaluation's are replaced."""
    provenance = make_provenance(LIBRARIES, device=config.device, precision=config.precision)
    header = {"kind": identity.kind, "identity": dict(identity.values), "provenance": provenance}
    page = report_page(
        ReportContent(
            written.metrics,
            publishable(redacted(config.model_dump(mode="json"))),
            identity.values,
            publishable(provenance),
            tuple(written.clips),
        )
    )
    shown = PICTURE.fullmatch  # by an earlier evaluation, perhaps of more clips
    with publish_files(folder, METRICS_FILE, replace=True, outdated=lambda name: shown(name) is not None) as files:
        for number, clip in enumerate(written.clips, start=1):
            write_png(files / f"picture-{number}.png", draw_sheet(clip.sheet))
        (files / PAGE).write_text(page, encoding="utf-8")
        (files / HEADER).write_text(json.dumps(seal(header), indent=1) + "\n")
        (files / METRICS_FILE).write_text(json.dumps(written.metrics, indent=1, allow_nan=False) + "\n")
        (files / QUARANTINE).write_bytes(quarantine_bytes(written.quarantined))
        (files / VIDEOS_FILE).write_bytes(written.sums.to_bytes())
        sizes = {file.name: file.stat().st_size for file in files.iterdir()}
    return sum(sizes.values())
