"""Keys of clips: what one may be, and how those of training clips are made from the path of their source.

NAME-NUMBER                 `train__abseiling__a7xK2-0f3c9a1b2d4e-3`
NAME                        `train__abseiling__a7xK2-0f3c9a1b2d4e`, the name of the source: TEXT-DIGEST

Evaluation clips are called by the names that their data set gives them (`vspw`, `cityscapes`, `kitti`). Nobody takes a
key apart: the name of a clip's source is recorded beside its key (`ingest.shards.clip_index`).
"""

from __future__ import annotations

import hashlib
import re

KEY_CHARACTERS = 72
"""Of the source's path, the last ones."""
DIGEST_DIGITS = 12


def source_name(source: str) -> str:
    """Return the name of a source: readable, unique, ASCII letters, digits, `-` and `_` only.

    `source` is its path relative to the root of the data set. The name is the path without its suffix, then twelve
    digits of its SHA-256, which keep paths apart that read alike, such as names without one ASCII letter.
    """
    text = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", source).replace("/", "__")
    text = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[-KEY_CHARACTERS:].lstrip("-_")
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_DIGITS]
    return f"{text or 'video'}-{digest}"


def clip_key(source: str, number: int, clips: int) -> str:
    """Return the key of clip `number` of the `clips` of a source, counted from 0."""
    return f"{source_name(source)}-{number:0{len(str(clips - 1))}d}"


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
