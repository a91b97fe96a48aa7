"""What `deltactl info` says about an evaluation's report, from its `metrics.json`; loads no torch."""

from __future__ import annotations

from typing import Any

from deltactl.errors import DamagedError
from deltactl.locations import Location

METRICS_FILE, VIDEOS_FILE = "metrics.json", "videos.npz"


def read_metrics(root: Location) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    Raises:
        DamagedError: it is not what `eval` writes.
    """
    content = (root / METRICS_FILE).read_json()
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise DamagedError(f"{root / METRICS_FILE} is not what deltactl eval writes: it has no list of rows")
    return content


def describe(root: Location) -> dict[str, Any]:
    """Return facts by name.

    Raises:
        DamagedError: `metrics.json` is not what `eval` writes.
    """
    content = read_metrics(root)
    facts = {key: content.get(key) for key in ("dataset", "size", "context", "samples", "seed", "clips")}
    methods = sorted({str(row.get("method")) for row in content["rows"] if isinstance(row, dict)})
    return {"kind": "evaluation report", **facts, "methods": ", ".join(methods), "rows": len(content["rows"])}
