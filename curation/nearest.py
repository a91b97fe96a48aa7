"""The clips of a store that look most like one of them, exactly, with a sheet of pictures.

Takes an open store and the numbers of some of its clips, returns for each the most similar others by the cosine of
their looks (`measures`). The store is read once, block by block; memory holds two blocks and what was found so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from deltactl.curation.alike import NONE, NearestSearch
from deltactl.curation.frames import Frames
from deltactl.curation.measures import Usual, looks_of_features, looks_of_tokens
from deltactl.curation.read import usual_of, videos_of
from deltactl.errors import ConfigError
from deltactl.evaluate.report.pictures import FAINT, GAP, LINE, MARGIN, Canvas, shorten
from deltactl.featurize.pictures.clip_frames import Picture
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.featurize.store.scan import blocks_of
from deltactl.progress import Progress

LONGEST_TITLE = 100


@dataclass(frozen=True)
class Hit:
    """A clip that was found."""

    sample: int
    cosine: float


def nearest_clips(
    store: ClipStore, queries: Sequence[int], k: int, *, other_videos: bool = False, block: int | None = None
) -> list[list[Hit]]:
    """Return the `k` clips that look most like each query, which is not among them; fewer where there are fewer.

    `other_videos` leaves out those of the query's own video.

    Raises:
        ValueError: `k` is below 1.
        DamagedError: bytes of the store are damaged.
    """
    usual = usual_of(store)
    search = NearestSearch(_looks(store, store.read_clips(queries), usual), k)
    videos, asked = torch.from_numpy(videos_of(store)), torch.tensor(queries)
    with Progress(len(store), label="nearest") as progress:
        for start, clips in blocks_of(store, block):
            numbers = torch.arange(start, start + len(clips))
            banned = asked[:, None] == numbers
            if other_videos:
                banned |= videos[asked][:, None] == videos[numbers]
            search.add(_looks(store, clips, usual), numbers, banned)
            progress.advance(len(clips))
    found = search.result()
    return [
        [Hit(number, cosine) for number, cosine in zip(*row, strict=True) if number != NONE]
        for row in zip(found.numbers.tolist(), found.cosines.tolist(), strict=True)
    ]


def sheet(store: ClipStore, queries: Sequence[int], hits: Sequence[Sequence[Hit]], frames: Frames) -> Picture:
    """Return each query and what was found for it, a clip a row, as one picture.

    Raises:
        ConfigError: the frames are not to be had.
    """
    rows = list(_rows(store, queries, hits, frames))
    if not any(pictures for _, _, pictures in rows):
        raise ConfigError(
            f"the frames of {store.root} are not where its shards were; name them with --shards, or leave out --picture"
        )
    width = max(sum(each.shape[1] + GAP for each in pictures) for _, _, pictures in rows)
    heights = [LINE + max((each.shape[0] for each in pictures), default=0) + 2 * GAP for _, _, pictures in rows]
    canvas = Canvas(max(width, 640) + 2 * MARGIN, sum(heights) + 2 * MARGIN)
    top = MARGIN
    for (title, is_query, pictures), height in zip(rows, heights, strict=True):
        canvas.text(MARGIN, top, title, *(() if is_query else (FAINT,)))
        left = MARGIN
        for each in pictures:
            canvas.picture(left, top + LINE, each, *each.shape[:2])
            left += each.shape[1] + GAP
        top += height
    return canvas.pixels()


def title_of(store: ClipStore, sample: int) -> str:
    """Return which clip this is, and from when to when it goes."""
    times = store.times([sample])[0].tolist()
    return f"{store.key_of(sample)}, {times[0]:.4g} to {times[-1]:.4g} s"


def _rows(
    store: ClipStore, queries: Sequence[int], hits: Sequence[Sequence[Hit]], frames: Frames
) -> Iterator[tuple[str, bool, list[Picture]]]:
    """Yield title, whether it is a query, and the frames of each clip."""
    for query, found in zip(queries, hits, strict=True):
        yield shorten(title_of(store, query), LONGEST_TITLE), True, frames.of_clip(query)
        for hit in found:
            title = f"{hit.cosine:.3f}  {title_of(store, hit.sample)}"
            yield shorten(title, LONGEST_TITLE), False, frames.of_clip(hit.sample)


def _looks(store: ClipStore, clips: Tensor, usual: Usual) -> Float32[Tensor, "C L"]:
    return looks_of_features(clips, usual) if isinstance(store, FeatureStore) else looks_of_tokens(clips, usual)
