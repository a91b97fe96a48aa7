"""The pictures of a store's clips, from the shards it was made from, where they are still there.

Takes an open store and numbers of its clips, returns what its view shows of each frame, small.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from deltactl.errors import DeltactlError
from deltactl.featurize.pictures.clip_frames import Picture, clip_frames, shards_of
from deltactl.featurize.store.reader import ClipStore
from deltactl.ingest.record import recorded
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.keys import source_name
from deltactl.ingest.shards.random_access import RandomAccess

PICTURE_HEIGHT = 72


class Frames:
    """The frames of clips, by number of the sample."""

    def __init__(self, store: ClipStore, shards: ShardSet | None) -> None:
        self._store = store
        self._access = None if shards is None else RandomAccess(shards)

    @classmethod
    def of(cls, store: ClipStore, shards: str | None = None) -> Frames:
        """Return those of a store: from `shards`, by default from where it was made.

        Raises:
            ArtifactError: there are no shards where they were said to be.
        """
        return cls(store, ShardSet.open(shards) if shards is not None else shards_of(store.root))

    @property
    def there(self) -> bool:
        """Whether there are shards."""
        return self._access is not None

    def of_clip(self, sample: int) -> list[Picture]:
        """Return the frames of a clip, each at most `PICTURE_HEIGHT` high; empty where they are not to be had."""
        found = None if self._access is None else clip_frames(self._store, self._access, sample)
        return [_small(image) for image in (found[1] if found is not None else None) or ()]


def source_paths(store: ClipStore) -> Mapping[str, str]:
    """Return the path of each source by its name, below the root of the data set, as `ingest --exclude` takes it.

    Empty where neither the store nor its shards record them.
    """
    shards = shards_of(store.root)
    for root in [store.root, *([] if shards is None else [shards.root])]:
        try:
            generations = recorded(root)
        except DeltactlError:
            continue
        if generations is not None:
            return {source_name(path): path for each in generations for path in each.names}
    return {}


def _small(image: Picture) -> Picture:
    height, width = image.shape[:2]
    if height <= PICTURE_HEIGHT:
        return np.ascontiguousarray(image)
    size = max(1, round(width * PICTURE_HEIGHT / height)), PICTURE_HEIGHT
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
