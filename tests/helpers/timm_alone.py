"""timm where torchvision is not to be had: its wheels here are built for CUDA, and do not load beside torch for CPUs.

timm's networks use nothing of torchvision; its modules about reading pictures name parts of it when they are imported.
While these are imported here, empty classes stand for those names, and transformers takes torchvision to be there: it
asks before it wraps a model of timm. Where torchvision can be imported, it is.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

NAMES = (
    *("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.datasets", "torchvision.models"),
    *("torchvision.models.feature_extraction", "torchvision.transforms", "torchvision.transforms.functional"),
)


class InterpolationMode(enum.Enum):
    """The names of ways to resize, by which timm's tables go."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class Unused(ModuleType):
    """A module whose every name is an empty class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return InterpolationMode if name == "InterpolationMode" else type(name, (), {})


@contextmanager
def timm_alone() -> Iterator[Any]:
    """Import timm; skip the test where it is not installed."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):  # a build that does not fit torch's lacks operators
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                patch.delitem(sys.modules, name)
            for name in NAMES:
                patch.setitem(sys.modules, name, module := Unused(name))
                if outer := name.rpartition(".")[0]:
                    setattr(sys.modules[outer], name.rpartition(".")[2], module)
            _ask_again()
            yield importlib.import_module("timm")
        _ask_again()
        return
    yield importlib.import_module("timm")


def _ask_again() -> None:
    """Have transformers look anew for what it found missing, or there."""
    from transformers.utils import import_utils

    for question in (import_utils.is_torchvision_available, import_utils.is_timm_available):
        answers: Any = question
        answers.cache_clear()
