"""Guesses the name of a clip's source from its key, for shards and stores of format 1, which do not record it.

Used by the readers of that format alone. The guess is what earlier versions held out as a whole, so that a run that
goes on from an old set holds out the same clips.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

CLIP_NUMBER = re.compile(r"(-[0-9a-f]{12})-[0-9]+$")
"""End of a training clip's key: the digest of the source, and the clip's number."""
EVALUATION_FRAME = re.compile(r"(_image_[0-9]{2})?[_-][0-9]+$")
"""End of an evaluation clip's key: its last frame, and before it the camera of a stereo pair, whose pictures hardly
differ."""


def guess_sources(keys: Sequence[str], *, evaluation: bool) -> tuple[str, ...]:
    """Return the name of each clip's source; the whole key where it does not end as expected.

    `evaluation`: whether the clips are known to be of an evaluation set. The keys of a store of format 1 do not tell.
    """
    if evaluation:
        return tuple(EVALUATION_FRAME.sub("", key) for key in keys)
    return tuple(CLIP_NUMBER.sub(r"\1", key) for key in keys)
