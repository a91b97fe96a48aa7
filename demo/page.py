"""The demo as one HTML page: futures, surprise and numbers, and the commands that led there with their times.

Pictures are data URIs and nothing is loaded but the reports that the page links to, which lie in its folder.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from deltactl.demo.run import DemoResult
from deltactl.demo.table import result_lines
from deltactl.evaluate.report.charts import POLICY
from deltactl.evaluate.report.page import page_environment
from deltactl.locations import Location
from deltactl.progress import format_seconds

HERE = Path(__file__).parent
REPORTS = {"VSPW": "workspace/reports/vspw/report.html", "KITTI": "workspace/reports/kitti/report.html"}


def write_page(result: DemoResult) -> None:
    """Write the page to `result.report`."""
    text = (
        page_environment(HERE)
        .get_template("demo.html.jinja")
        .render(
            policy=POLICY,
            numbers="\n".join(result_lines(result)),
            futures=_png(result.futures),
            surprise=_png(result.surprise),
            commands=[
                (step.why, shlex.join(["deltactl", *step.arguments]), format_seconds(seconds), seconds)
                for step, seconds in result.took
            ],
            longest=max(seconds for _, seconds in result.took),
            reports=REPORTS,
        )
    )
    Location.of(result.report).write_bytes(text.encode())


def _png(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
