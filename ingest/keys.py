"""Keys of clips: what one may be, and those of training clips, which are made and taken apart here.

SOURCE-DIGEST-NUMBER        `train__abseiling__a7xK2-0f3c9a1b2d4e-3`

Evaluation clips are called by the names that their data set gives them (`vspw`, `cityscapes`, `kitti`).
"""

from __future__ import annotations

import hashlib
import re

KEY_CHARACTERS = 72
"""Of the source's path, the last ones."""
DIGEST_DIGITS = 12
CLIP_NUMBER = re.compile(rf"(-[0-9a-f]{{{DIGEST_DIGITS}}})-[0-9]+$")


def clip_key(source: str, number: int, clips: int) -> str:
    """Return the key of a clip: readable, unique, ASCII letters, digits, `-` and `_` only.

    The source's path without its suffix, twelve digits of its hash (what reads alike, as names without one ASCII
    letter do, stays apart), the clip's number.
    """
    text = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", source).replace("/", "__")
    text = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[-KEY_CHARACTERS:].lstrip("-_")
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_DIGITS]
    return f"{text or 'video'}-{digest}-{number:0{len(str(clips - 1))}d}"


def key_fault(key: str) -> str | None:
    """Return what keeps a text from being the key of a clip; None where nothing does."""
    if not key:
        return "is empty"
    if "." in key:
        return "holds a dot, which would end the key in a WebDataset"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def source_of(key: str) -> str:
    """Return what all clips of one source have in common in their keys; the whole key where it has no clip number."""
    return CLIP_NUMBER.sub(r"\1", key)
