"""What is to be left out, as text files: keys of clips for `train --where`, paths of sources for `ingest --exclude`.

Takes findings, returns lines. A clip is named once, under the first kind that fits; a source is named where every clip
of it is, since `--exclude` leaves out whole videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

KINDS = ("cut", "still", "copy", "repeat")
TITLES = {
    "cut": "a shot ends inside the clip",
    "still": "nothing moves",
    "copy": "looks like an earlier clip of another video",
    "repeat": "looks like an earlier clip of the same video",
}
LEFT_OUT = ("cut", "still", "copy")
"""By default: what repeats within a video may still move otherwise."""


def clip_lines(
    masks: Mapping[str, Bool[np.ndarray, " N"]], keys: Sequence[str], kinds: Sequence[str], made_by: str
) -> Iterator[str]:
    """Yield the lines of the list of clips."""
    yield f"# clips to leave out of training (deltactl train … --where); {made_by}"
    named = np.zeros(len(keys), bool)
    for kind in kinds:
        mine = masks[kind] & ~named
        named |= mine
        yield f"# {kind}: {TITLES[kind]} ({int(mine.sum())})"
        yield from (keys[number] for number in np.flatnonzero(mine).tolist())


def source_lines(
    out: Bool[np.ndarray, " N"], sources: Sequence[str], paths: Mapping[str, str], made_by: str
) -> Iterator[str]:
    """Yield the lines of the list of sources of which no clip is left, by path; those of unknown path are counted.

    `sources` is the name of each clip's source.
    """
    yield f"# videos of which every clip is left out (deltactl ingest … --exclude); {made_by}"
    names = whole_sources(out, sources)
    yield from (paths[name] for name in names if name in paths)
    if unknown := sum(name not in paths for name in names):
        yield f"# and {unknown} whose paths are not recorded: the shards are not where the store was made from"


def whole_sources(out: Bool[np.ndarray, " N"], sources: Sequence[str]) -> list[str]:
    """Return the sources of which every clip is left out, in order of their first clip."""
    left: dict[str, bool] = {}
    for name, gone in zip(sources, out.tolist(), strict=True):
        left[name] = left.get(name, True) and gone
    return [name for name, gone in left.items() if gone]
