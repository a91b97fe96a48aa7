"""What `deltactl info` says about a checkpoint, and about a run, whose checkpoint it shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deltactl.locations import Location
from deltactl.train.architecture import TITLES
from deltactl.train.checkpoints import Place, identify


def describe(place: Place) -> dict[str, dict[str, Any]]:
    """Return headings with facts by name; CheckpointError or HubError where it cannot be read."""
    info = identify(place)
    facts = {
        "kind": TITLES[info.kind],
        "file": info.source,
        "format": info.container,
        "parameters": f"{info.parameters:,}",
        "dtype": ", ".join(info.dtypes),
        "published architecture": "yes" if info.matches_published else f"no: {', '.join(info.differences)}",
        "content hash": info.content_hash,
        **info.progress,
    }
    return {"checkpoint": facts, "config": asdict(info.config), "provenance": dict(info.provenance)}


def describe_run(root: Location) -> dict[str, dict[str, Any]]:
    """Return the same for a run, after what it holds."""
    files = [name for name in root.list() if name != "checkpoints"]
    run = {
        "kind": "training run",
        "checkpoints": ", ".join((root / "checkpoints").list()),
        "files": ", ".join(files) or "none",
    }
    return {"run": run, **describe(root)}
