"""What `deltactl info` says about a set of shards: how much there is, and whether the stage has ended.

Reads the index alone, or the sidecars while there is none.
"""

from __future__ import annotations

from typing import Any

from deltactl.artifacts import UNWRITTEN, read_quarantine
from deltactl.ingest.record import unfinished_note
from deltactl.ingest.shards.format import ShardSet, read_indexed
from deltactl.locations import Location
from deltactl.progress import format_bytes


def describe(root: Location) -> dict[str, Any]:
    """Return facts by name.

    Raises:
        ArtifactError: there is no set of shards.
        DamagedError: a file of it cannot be read.
    """
    shards = ShardSet.open(root)
    if shards.complete:
        size = sum(entry.bytes for entry in read_indexed(root).values())
        quarantined = len(read_quarantine(root))
    else:
        sidecars = [shards.sidecar(unit) for unit in shards.units]
        size = sum(sidecar.tar_bytes for sidecar in sidecars)
        quarantined = sum(len(sidecar.quarantined) for sidecar in sidecars)
    stride = shards.identity.values.get("stride", UNWRITTEN["stride"])
    steps = shards.identity.values.get("frames_per_step", UNWRITTEN["frames_per_step"])
    added = [f"then {entry['sources']:,}" for entry in shards.generations]
    first = shards.identity.values.get("sources")
    return {
        "kind": "shards (WebDataset)",
        "complete": "yes"
        if shards.complete
        else f"no: {str(unfinished_note(shards)).removeprefix(f'{root} is unfinished: ')}",
        **({"generations": f"{len(added) + 1}: {first:,} sources, {', '.join(added)}"} if added else {}),
        "clips": shards.count,
        **({"seconds between frames": stride} if "sampling" in shards.identity.values else {}),
        **({} if steps == 1 else {"frames per step": steps}),
        **({"columns": ", ".join(map(str, shards.columns))} if shards.columns else {}),
        "shards": len(shards.units),
        "size": format_bytes(size),
        "quarantined": quarantined,
    }
