"""Stores whose clips carry a label, of numbers that are known, made by the program's own writer without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.artifacts import Identity, open_artifact
from deltactl.featurize.store.carried import COLUMNS, CarriedRows
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.layout import Layout, StoreKind
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.ingest.shards.columns import Column, Columns
from deltactl.locations import Location

CLASS = (Column("clip.class", "text", ()),)
SHARD_CLIPS = 16


@dataclass(frozen=True)
class Clip:
    """One clip under each view, and what it carries."""

    video: str
    values: dict[str, Any]
    """By column."""
    numbers: np.ndarray
    """(view, frame, patch or token, width)."""
    key: str = field(default="")


def write_store(
    root: Path | Location,
    clips: Sequence[Clip],
    *,
    kind: StoreKind = "features",
    columns: Columns = CLASS,
    pack: bool = True,
    invalid: Sequence[int] = (),
    **identity: Any,
) -> str:
    """Write a store of these clips, in shards of 16; `invalid` are places of some, `identity` more values of it."""
    place = Location.of(root)
    views, frames, *frame = clips[0].numbers.shape
    layout = Layout(kind, frames, tuple(frame), carried=columns)
    values = {"backbone": "b" * 64, "size": 32, "made": len(clips), **identity}
    if kind == "tokens":
        values = {"tokenizer": "t" * 64, **values}
    identity_there = Identity(kind, values)
    open_artifact(place, identity_there, {})
    write_root(place, np.zeros(frame, np.float32) if kind == "features" else None)
    units = [f"{number:06d}" for number in range(-(-len(clips) // SHARD_CLIPS))]
    for view in range(views):
        for number, unit in enumerate(units):
            first = number * SHARD_CLIPS
            _write_group(place, view, unit, layout, identity_there, clips[first : first + SHARD_CLIPS], first, invalid)
    index = finish(place, expected=units)
    assert index is not None
    if pack and kind == "tokens":
        pack_store(place, index)
    return str(place)


def _write_group(
    root: Location,
    view: int,
    unit: str,
    layout: Layout,
    identity: Identity,
    clips: Sequence[Clip],
    first: int,
    invalid: Sequence[int],
) -> None:
    keys = [clip.key or f"{clip.video}-{first + row:04d}" for row, clip in enumerate(clips)]
    carried = CarriedRows(layout.carried, len(clips), layout.frames)
    with group_writer(root, view, unit, layout, keys, [clip.video for clip in clips]) as writer:
        for row, clip in enumerate(clips):
            writer.put(row, 0, clip.numbers[view].astype(np.float16))
            assert carried.put(row, {name: np.asarray(value) for name, value in clip.values.items()}) is None
            if first + row in invalid:
                writer.invalidate(row)
        times = np.arange(layout.frames)[None] + np.zeros((len(clips), 1))
        small = {"times": times, "crop": np.zeros((len(clips), 4)), "flip": np.zeros(len(clips))}
        attributes = {
            **({"texts": carried.texts} if carried.texts else {}),
            **{"identity": {"kind": layout.kind, "values": dict(identity.values)}, "quarantined": []},
            **{"view": view, "shard": unit, "shard_sha256": unit},
        }
        writer.close(grid=(1, layout.frame_shape[0]), small={**small, COLUMNS: carried.rows}, attributes=attributes)


def separable(
    classes: int = 3,
    videos: int = 12,
    clips: int = 3,
    views: int = 2,
    frames: int = 4,
    items: int = 2,
    width: int = 6,
    noise: float = 0.05,
    seed: int = 0,
    prefix: str = "video",
) -> list[Clip]:
    """Return clips around one point for each class, `videos` of each class, whose order is shuffled."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    made = []
    for number in range(classes * videos):
        label = number % classes
        for _ in range(clips):
            numbers = centres[label] + noise * draw.standard_normal((views, frames, items, width))
            made.append(Clip(f"{prefix}{number:03d}", {"clip.class": f"class {label}"}, numbers))
    return [made[place] for place in draw.permutation(len(made))]
