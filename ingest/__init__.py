"""Videos, frame folders, zips and data sets in; WebDataset shards out.

The public names are loaded when first asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltactl.ingest.decode import Decoders as Decoders
    from deltactl.ingest.decode_av import PyAVDecoder as PyAVDecoder
    from deltactl.ingest.sampling import sample_clips as sample_clips
    from deltactl.ingest.shards import Clip as Clip
    from deltactl.ingest.shards import ShardSet as ShardSet
    from deltactl.ingest.timestamps import Video as Video

_HOMES = {
    "Clip": "shards",
    "Decoders": "decode",
    "PyAVDecoder": "decode_av",
    "ShardSet": "shards",
    "Video": "timestamps",
    "sample_clips": "sampling",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
