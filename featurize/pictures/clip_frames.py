"""What the view of a clip shows of its frames: read from the shards that its store was made from, and cropped.

Takes an open store. Tokens are followed back through the features that they were made from; a store made straight from
videos has no shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from deltactl.artifacts import read_header
from deltactl.errors import ArtifactError, DeltactlError, SourceError
from deltactl.featurize.store.reader import ClipStore
from deltactl.featurize.views import View
from deltactl.ingest.shards.format import ClipMeta, ShardSet
from deltactl.ingest.shards.geometry import Box
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location

Picture = UInt8[np.ndarray, "_ _ 3"]
LONGEST_WAY = 3
"""Artifacts from tokens back to shards."""


def shards_of(root: Location) -> ShardSet | None:
    """Return the shards that a store goes back to; None where they are not where they were."""
    for _ in range(LONGEST_WAY):
        try:
            header = read_header(root)
            if header.identity.kind == "shards":
                return ShardSet.open(root)
            parent = header.provenance.get("shards") or header.provenance.get("data")
            if not isinstance(parent, str):
                return None
            root = Location.of(parent)
        except (DeltactlError, OSError):
            return None
    return None


def views_of(store: ClipStore, samples: Sequence[int]) -> list[View]:
    """Return what each sample shows of the stored frames."""
    crops, flips = store.crops(samples).tolist(), store.flips(samples).tolist()
    return [View(Box(*crop), bool(flip)) for crop, flip in zip(crops, flips, strict=True)]


def cut(image: Picture, box: Box) -> Picture:
    """Return a part of a picture."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def clip_frames(store: ClipStore, shards: RandomAccess, sample: int) -> tuple[ClipMeta, list[Picture] | None] | None:
    """Return a clip's description, and what its view shows of each frame, at the size that is stored.

    Where a step of features is made from several frames, that is the last of each. No pictures where they cannot be
    decoded; None where the shards do not hold the clip, or are damaged there.
    """
    try:
        meta, stored = shards.read(store.unit_of(sample), store.key_of(sample), None)
    except (KeyError, ArtifactError, SourceError):
        return None
    (view,) = views_of(store, [sample])
    step = max(1, len(stored) // store.frames)
    try:
        images = [decode_frame_file(data, name) for name, data in stored[step - 1 :: step]]
    except SourceError:
        return meta, None
    shown = [cut(image, view.crop) for image in images]
    return meta, [image[:, ::-1] if view.flip else image for image in shown]
