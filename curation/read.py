"""Reads a store once, from front to back, and measures each clip of one view.

Takes an open store, returns arrays by clip, in the order of the store. Memory holds two blocks of clips; looks, the
largest result, lie in a file of the folder for temporary files (3 kB a clip of width 768). A sample of clips, spread
evenly, is read before the others to learn what is usual. Nothing depends on how many threads read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from deltactl.curation.measures import Measures, Usual, measure_features, measure_tokens
from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.featurize.store.scan import blocks_of, not_finite, open_whole, source_names
from deltactl.progress import Progress

SAMPLE_CLIPS = 256
NEEDED_FRAMES = 2


@dataclass(frozen=True)
class Measured:
    """What was measured of every clip of a store under one view: N clips, S steps, looks of width L."""

    samples: Int64[np.ndarray, " N"]
    """Number of each clip in the store."""
    videos: Int64[np.ndarray, " N"]
    """Number of the video of each clip."""
    changes: Float32[np.ndarray, "N S"]
    movement: Float32[np.ndarray, " N"]
    looks: Float32[np.ndarray, "N L"]

    def __len__(self) -> int:
        return len(self.samples)


def open_store(place: str, view: int | None = None) -> ClipStore:
    """Open a whole feature or token store under one view, by default its first.

    Raises:
        ArtifactError: it is neither, or unfinished, or lacks the view.
        DamagedError: its header or index is damaged.
    """
    store = open_whole(place, None if view is None else [view])
    if view is None and len(store.views) > 1:
        first = store.views[:1]
        store.close()
        store = open_whole(place, first)
    return store


def measure(store: ClipStore, scratch: Path, block: int | None = None) -> Measured:
    """Measure every clip of a store that `open_store` opened; looks lie in a file in the folder `scratch`.

    Raises:
        ConfigError: its clips have one frame.
        ArtifactError: a clip holds numbers that are not finite.
        DamagedError: a clip's bytes are damaged.
    """
    if store.frames < NEEDED_FRAMES:
        raise ConfigError(f"{store.root} has clips of one frame; changes need two at least")
    usual = usual_of(store)
    count, width = len(store), len(usual.first)
    looks = np.lib.format.open_memmap(scratch / "looks.npy", "w+", np.float32, (count, width))
    changes = np.empty((count, store.frames - 1), np.float32)
    movement = np.empty(count, np.float32)
    with Progress(count, label="measure") as progress:
        for start, clips in blocks_of(store, block):
            end = start + len(clips)
            found = measure_features(clips, usual) if isinstance(store, FeatureStore) else measure_tokens(clips, usual)
            _check_finite(store, start, found)
            changes[start:end], movement[start:end] = found.changes.numpy(), found.movement.numpy()
            looks[start:end] = found.looks.numpy()
            progress.advance(end - start)
    return Measured(np.arange(count), videos_of(store), changes, movement, looks)


def usual_of(store: ClipStore) -> Usual:
    """Return what is usual in a store, from clips spread evenly over it."""
    samples = np.unique(np.linspace(0, len(store) - 1, min(SAMPLE_CLIPS, len(store))).astype(int)).tolist()
    clips = store.read_clips(samples)
    return Usual.of_features(clips) if isinstance(store, FeatureStore) else Usual.of_tokens(clips)


def videos_of(store: ClipStore) -> Int64[np.ndarray, " N"]:
    """Return a number for the video of each sample: the first of its samples."""
    known: dict[str, int] = {}
    return np.fromiter((known.setdefault(name, number) for number, name in enumerate(source_names(store))), np.int64)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for looks, removed at the end."""
    return tempfile.TemporaryDirectory(prefix="deltactl-curate-")


def _check_finite(store: ClipStore, start: int, found: Measures) -> None:
    whole = found.changes.isfinite().all(1) & found.looks.isfinite().all(1)
    if not whole.all():
        raise not_finite(store, start + int((~whole).nonzero()[0]))


def samples_of(store: ClipStore, keys: Sequence[str]) -> list[int]:
    """Return the sample of each of these clips, under the store's first view.

    Raises:
        ConfigError: there is no such clip.
    """
    found = []
    for key in keys:
        try:
            found.append(store.find(key, store.views[0]))
        except KeyError as error:
            raise ConfigError(
                f"{store.root} has no clip {key!r}; keys are such as {store.key_of(0)} "
                "(deltactl curate lists those it names)"
            ) from error
    return found
