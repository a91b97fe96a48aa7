"""What people are told about a feature store or a token store: by `deltactl info`, and at the end of a stage.

A store's index alone is read, or its folders listed while there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltactl.artifacts import INDEX, Identity, how_to_end, read_header, read_quarantine
from deltactl.errors import ArtifactError
from deltactl.featurize.store.dropped import dropped_note
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import Layout, view_name, view_number
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.views import Augmentation
from deltactl.ingest.record import VIDEOS
from deltactl.locations import Location
from deltactl.progress import format_bytes

TITLES = {"features": "feature store (Zarr v3)", "tokens": "token store (Zarr v3)"}


def describe(root: Location) -> dict[str, Any]:
    """Return facts by name about a feature or token store.

    Raises:
        ArtifactError: it is no artifact.
        DamagedError: a file of it is damaged.
    """
    header = read_header(root)
    kind = TITLES.get(header.identity.kind, "store")
    views = [name for name in root.list() if view_number(name) is not None]
    if not (root / INDEX).exists():
        groups = {view_name(view): len(units) for view, units in published(root).items()}
        return {
            "kind": kind,
            "complete": f"no: {_why_unfinished(root, views)}",
            "groups": ", ".join(f"{view}: {count} shards" for view, count in groups.items()) or "none yet",
        }
    index = StoreIndex.read(root)
    entries = [entry for groups in index.views.values() for entry in groups.values()]
    invalid = sum(len(entry.invalid) for entry in entries)
    clips = sum(len(index.keys[unit]) for groups in index.views.values() for unit in groups)
    note = index.unfinished_note()
    # Stores that other programs made may not say how many frames their clips have.
    frames = header.identity.integer("frames") if "frames" in header.identity.values else index.layout.frames
    frames_per_step = frames // index.layout.frames
    return {
        "kind": kind,
        "complete": "yes" if note is None else f"no: {note}; {how_to_end(root)}",
        **_videos(header.identity),
        **({"generation of the sources": len(header.generations) + 1} if header.generations else {}),
        "clips": sum(len(keys) for keys in index.keys.values()),
        "views": len(index.views),
        "crops": f"{clips - invalid:,} readable, {invalid:,} invalid",
        **_random_crops(header.identity),
        "frames" if frames_per_step == 1 else "steps": index.layout.frames,
        **({} if frames_per_step == 1 else {"frames per step": frames_per_step}),
        **_frame_facts(index.layout),
        **({"columns": ", ".join(map(str, index.layout.carried))} if index.layout.carried else {}),
        **_channels(index.statistics),
        "grid": f"{index.grid[0]} x {index.grid[1]} patches",
        "shards": len(index.expected),
        "size": format_bytes(sum(entry.bytes for entry in entries)),
        "quarantined": len(read_quarantine(root)),
    }


def _frame_facts(layout: Layout) -> dict[str, Any]:
    """Return what a frame is; tokens are told by number and width, however they lie on the disk."""
    count, dim = layout.item_shape
    if layout.kind == "tokens":
        return {"tokens per frame": count, "width": f"{dim} {layout.dtype}"}
    return {"frame": f"{count} x {dim} {layout.dtype}"}


def _channels(statistics: Statistics | None) -> dict[str, str]:
    """Return between which numbers the channels' means and standard deviations lie."""
    if statistics is None:
        return {"channels": "mean and standard deviation were not recorded"}
    columns = {"channel means": statistics.mean, "channel standard deviations": statistics.std}
    return {name: f"{column.min():.4g} to {column.max():.4g}" for name, column in columns.items()}


def _videos(identity: Identity) -> dict[str, str]:
    """Return which videos a store was made straight from; nothing for one that was made from shards."""
    said = identity.values.get(VIDEOS)
    if not isinstance(said, Mapping):
        return {}
    each = f"{said.get('clips')} clips of {said.get('frames')} frames of each"
    return {"straight from": f"{said.get('sources')} videos ({said.get('dataset')}) in its first generation, {each}"}


def _random_crops(identity: Identity) -> dict[str, str]:
    """Return from what random crops were drawn; nothing for square ones."""
    if identity.values.get("crops") != "augment":
        return {}
    said = Augmentation.of_identity(identity).settings
    return {"random crops": f"area {said['crop_area']}, aspect ratio {said['aspect']}, mirrored {said['flip']:g}"}


def state_of(root: Location, index: StoreIndex | None) -> str:
    """Return the line for a store of this index; None where there are no groups."""
    if index is None:
        return f"{root} holds no views yet"
    entries = [(unit, entry) for groups in index.views.values() for unit, entry in groups.items()]
    rows = sum(len(index.keys[unit]) for unit, _ in entries)
    invalid = sum(len(entry.invalid) for _, entry in entries)
    note = index.unfinished_note()
    clips = sum(map(len, index.keys.values()))
    return (
        f"{root} is {'complete' if note is None else 'unfinished'}: {len(index.views):,} views of {clips:,} clips, "
        f"{rows - invalid:,} readable and {invalid:,} not, {len(read_quarantine(root)):,} in quarantine"
        f"{'' if note is None else f'; {note}'}"
    )


def state_there(root: Location) -> str | None:
    """Return the line for the store as it lies there; None where there is none that can be read."""
    if not (root / INDEX).exists():
        return None
    try:
        return state_of(root, StoreIndex.read(root))
    except ArtifactError:
        return None


def _why_unfinished(root: Location, views: list[str]) -> str:
    """Return why a store has no index: its views were dropped, or the stage that makes it has not ended."""
    note = None if views else dropped_note(root)
    return note or f"the stage that makes it has not ended; {how_to_end(root)}"
