"""Shards and a frozen backbone in; a feature store (Zarr v3) out.

The public classes are loaded when first asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltactl.featurize.backbone import Backbone as Backbone
    from deltactl.featurize.store import FeatureStore as FeatureStore
    from deltactl.featurize.store import TokenStore as TokenStore

_HOMES = {"Backbone": "backbone", "FeatureStore": "store", "TokenStore": "store"}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
