"""Token stores of many small shards, made by the program's own writer without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deltactl.artifacts import Identity, open_artifact
from deltactl.featurize.store.finish import finish, published
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.locations import Location

FRAMES, DIM = 3, 8
LAYOUT = Layout("tokens", FRAMES, (1, DIM))
IDENTITY = Identity("tokens", {"made": "by hand"})


def unit_names(count: int) -> list[str]:
    """Return the names of the first shards."""
    return [f"{number:06d}" for number in range(count)]


def clips_of(unit: str) -> int:
    """Return how many clips a shard has: from none to three."""
    return int(unit) % 4


def numbers_of(view: int, unit: str, version: int = 0) -> np.ndarray:
    """Return the tokens of a group, unlike those of all others."""
    seed = (view * 1000 + int(unit)) * 10 + version
    shape = (clips_of(unit) + version, FRAMES, 1, DIM)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def write_group(root: Location, view: int, unit: str, version: int = 0, layout: Layout = LAYOUT) -> None:
    """Publish a group by itself; a later `version` of its shard has more clips."""
    numbers = numbers_of(view, unit, version)
    keys = [f"{unit}-{row}" for row in range(len(numbers))]
    with group_writer(root, view, unit, layout, keys, keys, replace=version > 0) as writer:
        for row, clip in enumerate(numbers):
            writer.put(row, 0, clip)
        times = np.arange(len(keys) * FRAMES).reshape(-1, FRAMES) + 100.0 * int(unit)
        small = {"times": times, "crop": np.full((len(keys), 4), int(unit)), "flip": np.arange(len(keys)) % 2 > 0}
        draw = np.random.default_rng(int(unit))
        small["columns"] = draw.integers(0, 100, (len(keys), layout.carried_bytes), np.uint8)
        made_from = {"identity": {"kind": "tokens", "values": dict(IDENTITY.values)}, "quarantined": []}
        attributes = {**made_from, "view": view, "shard": unit, "shard_sha256": f"{unit}.{version}"}
        writer.close(grid=(2, 2), small=small, attributes=attributes)


def make_store(
    folder: Path | Location,
    units: Sequence[str],
    views: Iterable[int] = (0,),
    *,
    pack: bool = True,
    layout: Layout = LAYOUT,
    expected: Sequence[str] | None = None,
) -> Location:
    """Make, or add to, a token store of these shards, and index it; whole unless more are `expected`."""
    root = Location.of(folder)
    open_artifact(root, IDENTITY, {"command": "deltactl tokenize x"})
    write_root(root, None)
    there = published(root)
    for view in views:
        for unit in units:
            if unit not in there.get(view, ()):
                write_group(root, view, unit, layout=layout)
    index = finish(root, expected=expected or units)
    assert index is not None
    if pack:
        pack_store(root, index)
    return root


def all_numbers(index: StoreIndex) -> np.ndarray:
    """Return the tokens of all samples of a store of first versions, in order."""
    return np.concatenate(
        [numbers_of(view, unit) for view in sorted(index.views) for unit in sorted(index.views[view])]
    )


def inodes(folder: Path) -> int:
    """Return how many inodes a folder takes, itself included."""
    return 1 + sum(1 for _ in folder.rglob("*"))
