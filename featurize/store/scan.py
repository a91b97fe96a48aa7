"""Reads a whole store from front to back, in blocks of clips, each read while the one before it is worked on.

Takes the place of a feature or token store, returns it open, and its clips block by block; memory holds two blocks.
Nothing depends on how many threads read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from deltactl.artifacts import how_to_end, read_header
from deltactl.errors import ArtifactError
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.locations import Location

BLOCK_BYTES = 1 << 26
MOST_CLIPS = 4096


def open_whole(place: str | Location, views: Sequence[int] | None = None) -> ClipStore:
    """Open a whole feature or token store that has clips, by default under all its views.

    Raises:
        ArtifactError: it is neither, or unfinished, or lacks a view, or has no clip that can be read.
        DamagedError: its header or index is damaged.
    """
    root = Location.of(place)
    kind = read_header(root).identity.kind
    if kind not in ("features", "tokens"):
        raise ArtifactError(f"{root} holds {kind}; features or tokens were expected")
    opener = FeatureStore if kind == "features" else TokenStore
    store: ClipStore = opener.open(root, views=views)
    if store.unfinished is not None:
        store.close()
        raise ArtifactError(f"{root} is unfinished: {store.unfinished}; {how_to_end(root)}")
    if not len(store):
        store.close()
        raise ArtifactError(f"{root} has no clip that can be read")
    return store


def blocks_of(
    store: ClipStore, block: int | None = None, samples: Sequence[int] | None = None
) -> Iterator[tuple[int, Float[Tensor, "C T *frame"]]]:
    """Yield the clips of a store in order, in blocks, each with the place of its first; the next is read meanwhile.

    `block` is the number of clips in one, by default as many as 64 MiB hold. `samples` are numbers of those to read, by
    default all; a place is that among them.
    """
    chosen: Sequence[int] = range(len(store)) if samples is None else samples
    count = len(chosen)
    size = block or max(1, min(MOST_CLIPS, BLOCK_BYTES // store.layout.clip_bytes))
    if not count:
        return
    reading = store.start_clips(chosen[:size])
    for start in range(0, count, size):
        clips, end = reading.result(), min(start + size, count)
        if end < count:
            reading = store.start_clips(chosen[end : end + size])
        yield start, clips


def source_names(store: ClipStore) -> list[str]:
    """Return the name of the source of each sample."""
    names = [store.sources_of(unit) for unit in store.units]
    _, units, rows = store.origins
    return [names[unit][row] for unit, row in zip(units.tolist(), rows.tolist(), strict=True)]


def not_finite(store: ClipStore, sample: int) -> ArtifactError:
    """Return the error for a clip that holds numbers that are not finite."""
    return ArtifactError(
        f"{store.root}: the clip {store.key_of(sample)} holds numbers that are not finite; find out where they "
        f"come from with deltactl verify {store.root} --live 10, or leave its video out"
    )
