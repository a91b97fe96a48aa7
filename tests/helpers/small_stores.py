"""Small real feature stores for tests, made by the real backbone of the golden folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.layout import Layout
from deltactl.progress import Summary
from deltactl.tokenization.run import run as tokenize

BACKBONE = Path(__file__).parents[1] / "golden" / "backbone"
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


def settings(shards: Path, store: Path, **changes: Any) -> FeaturizeConfig:
    """Return the settings that the tests use: 64 px, on a CPU, in this process."""
    values = {"backbone": str(BACKBONE), "size": 64, "device": "cpu", "workers": 0, "max_bad": 0.5}
    return FeaturizeConfig(**{**values, "shards": str(shards), "out": str(store), **changes})


def run(shards: Path, store: Path, **changes: Any) -> Summary:
    """Featurize with those settings."""
    return featurize(settings(shards, store, **changes))


def tokens(data: Path, out: Path, **changes: Any) -> None:
    """Tokenize features, or shards, with the golden tokenizer."""
    values = {"size": 64, "device": "cpu", "workers": 0, "max_bad": 0.5, "tokenizer": TOKENIZER}
    tokenize(TokenizeConfig(data=str(data), out=str(out), **{**values, **changes}))


@contextlib.contextmanager
def earlier_layout() -> Iterator[None]:
    """Let new stores be made in the layout of formats 2 and 3."""
    real = Layout.__init__

    def earlier(self: Layout, *values: Any, **options: Any) -> None:
        real(self, *values, **{**options, "nested": True} if len(values) < 5 else options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "__init__", earlier)
        yield


def contents(root: Path) -> dict[str, bytes]:
    """Return every file below a folder, but for the header, which holds time and host."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).as_posix() not in ("artifact.json", "index.json")
    }


def copy(store: Path, to: Path) -> Path:
    """Return a copy to damage."""
    shutil.copytree(store, to)
    return to


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def other_backbone(folder: Path) -> Path:
    """Write the golden backbone with other weights, and return its folder."""
    shutil.copytree(BACKBONE, folder)
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"] * 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
