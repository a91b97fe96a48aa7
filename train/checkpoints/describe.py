"""What `deltactl info` says about a checkpoint, and about a run, whose checkpoint it shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deltactl.locations import Location
from deltactl.train.checkpoints.loading import Place, read


def describe(place: Place) -> dict[str, dict[str, Any]]:
    """Return headings with facts by name.

    Raises:
        CheckpointError: it cannot be read.
        HubError: the Hub does not hand it out.
    """
    checkpoint = read(place)
    facts = {
        "kind": checkpoint.kind.title,
        "file": checkpoint.source,
        "format": checkpoint.contents.container,
        "parameters": f"{checkpoint.parameters:,}",
        "dtype": ", ".join(checkpoint.dtypes),
        "published architecture": f"no: {', '.join(checkpoint.differences)}" if checkpoint.differences else "yes",
        "content hash": checkpoint.content_hash,
        **checkpoint.contents.progress,
    }
    return {"checkpoint": facts, "config": asdict(checkpoint.config), "provenance": dict(checkpoint.provenance)}


def describe_run(root: Location) -> dict[str, dict[str, Any]]:
    """Return the same for a run, after what it holds."""
    files = [name for name in root.list() if name != "checkpoints"]
    run = {
        "kind": "training run",
        "checkpoints": ", ".join((root / "checkpoints").list()),
        "files": ", ".join(files) or "none",
    }
    return {"run": run, **describe(root)}
