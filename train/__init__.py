"""Features in; tokenizer, tokens and world model out. The networks themselves live here.

The public classes are loaded when first asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltactl.train.deltatok import DeltaTok as DeltaTok
    from deltactl.train.deltatok import DeltaTokConfig as DeltaTokConfig
    from deltactl.train.deltaworld import BestOfMany as BestOfMany
    from deltactl.train.deltaworld import DeltaWorld as DeltaWorld
    from deltactl.train.deltaworld import DeltaWorldConfig as DeltaWorldConfig
    from deltactl.train.deltaworld import draw_queries as draw_queries
    from deltactl.train.dinoworld import DinoWorld as DinoWorld
    from deltactl.train.dinoworld import DinoWorldConfig as DinoWorldConfig
    from deltactl.train.heads import DepthHead as DepthHead
    from deltactl.train.heads import SegmentationHead as SegmentationHead
    from deltactl.train.rgb_head import RGBHead as RGBHead
    from deltactl.train.rgb_head import RGBHeadConfig as RGBHeadConfig

_HOMES = {
    "BestOfMany": "deltaworld",
    "DeltaTok": "deltatok",
    "DeltaTokConfig": "deltatok",
    "DeltaWorld": "deltaworld",
    "DeltaWorldConfig": "deltaworld",
    "DepthHead": "heads",
    "DinoWorld": "dinoworld",
    "DinoWorldConfig": "dinoworld",
    "RGBHead": "rgb_head",
    "RGBHeadConfig": "rgb_head",
    "SegmentationHead": "heads",
    "draw_queries": "deltaworld",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
