"""What the view of a clip shows of its frames: read from the shards that its store was made from, and cropped."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from deltactl.errors import ArtifactError, SourceError
from deltactl.featurize.store.reader import ClipStore
from deltactl.ingest.shards.format import ClipMeta
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.shards.random_access import RandomAccess

Picture = UInt8[np.ndarray, "_ _ 3"]


def clip_frames(store: ClipStore, shards: RandomAccess, sample: int) -> tuple[ClipMeta, list[Picture] | None] | None:
    """Return a clip's description, and what its view shows of each frame, at the size that is stored.

    Where a step of features is made from several frames, that is the last of each. No pictures where they cannot be
    decoded; None where the shards do not hold the clip, or are damaged there.
    """
    try:
        meta, stored = shards.read(store.unit_of(sample), store.key_of(sample), None)
    except (KeyError, ArtifactError, SourceError):
        return None
    top, left, height, width = store.crops([sample])[0].tolist()
    mirrored = bool(store.flips([sample])[0])
    step = max(1, len(stored) // store.frames)
    try:
        images = [decode_frame_file(data, name) for name, data in stored[step - 1 :: step]]
    except SourceError:
        return meta, None
    shown = [image[top : top + height, left : left + width] for image in images]
    return meta, [image[:, ::-1] if mirrored else image for image in shown]
