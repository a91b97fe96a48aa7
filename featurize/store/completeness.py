"""What a store should hold, from what it was made from: whether its stage has ended can be proven, or not.

Takes a store, returns the shards that each of its views has a group of. Where the shards (or, for tokens, the
features) are gone, are others, or are unfinished themselves, nothing proves it, and nothing may say it.
"""

from __future__ import annotations

from deltactl.artifacts import Header, read_header, read_quarantine
from deltactl.errors import ArtifactError
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.index import StoreIndex
from deltactl.fields import Fields
from deltactl.ingest.record import VIDEOS, planned_units, units_of_videos
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location


def expected_units(root: Location, source: str | None = None) -> list[str] | None:
    """Return the shards that a whole view of the store has a group of, but for those whose tar cannot be used.

    `source` is what the store was made from, unless its provenance knows. None where that cannot be told. A store made
    straight from videos says itself which units it has.
    """
    header = read_header(root)
    if VIDEOS in header.identity.values:
        videos = Fields(dict(header.identity.values), header.identity.file, "identity").nested(VIDEOS)
        return units_of_videos(videos, header.generations)
    place = source or header.provenance.get("shards") or header.provenance.get("data")
    try:
        kind = read_header(Location.of(place)).identity.kind if place else None
        if kind == "shards":
            return _of_shards(header, ShardSet.open(str(place)))
        if kind == "features":
            return _of_features(header, Location.of(str(place)))
    except (ArtifactError, FileNotFoundError):
        pass
    return None


def lacking(root: Location, source: str | None = None) -> list[str] | None:
    """Return what keeps a store from being complete, in words: nothing, or what its views lack; None: not known."""
    units = expected_units(root, source)
    if units is None:
        return None
    unusable = {entry.unit for entry in read_quarantine(root) if "/" not in entry.unit}
    wanted = set(units) - unusable
    views = published(root)
    if not views:
        return ["it holds no groups"]
    return [
        f"view {view} holds {len(wanted & set(there)):,} of {len(wanted):,} shards"
        for view, there in views.items()
        if not wanted <= set(there)
    ]


def _of_shards(header: Header, shards: ShardSet) -> list[str] | None:
    """Return the units of the generation of shards that a store is of."""
    if header.identity.values.get("shards") != shards.identity.hash():
        return None
    if len(header.generations) > len(shards.generations):
        return None
    units = planned_units(shards, len(header.generations))
    return units if set(units) <= set(shards.units) else None


def _of_features(header: Header, root: Location) -> list[str] | None:
    """Return the units of the features that tokens were made from, where these are whole."""
    features = read_header(root)
    values = {key: value for key, value in header.identity.values.items() if key != "tokenizer"}
    if values != dict(features.identity.values) or len(header.generations) != len(features.generations):
        return None
    index = StoreIndex.read(root)
    return list(index.expected) if index.complete else None
