"""Files that an earlier version wrote are read as it meant them, and exported to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.networks.known_kinds import head_of, kind_named
from deltactl.train.networks.rgb_head import RGB

OLD = Path(__file__).parents[1] / "old_files"
HEADERS: dict[str, dict[str, Any]] = json.loads((OLD / "headers.json").read_text())
HASHES: dict[str, str] = json.loads((OLD / "hashes.json").read_text())


@pytest.mark.parametrize("name", HEADERS)
def test_an_old_header_is_understood_and_written_alike(name: str, tmp_path: Path) -> None:
    kind, old = kind_named(name), HEADERS[name]
    network = kind.build(type(kind.default)(**old["config"]))
    assert header_of(network, {"step": 3}) == old
    torch.save({"state_dict": network.state_dict(), "deltactl": old}, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")
    assert (found.kind, found.config, found.provenance) == (kind, network.config, {"step": 3})


def test_an_old_training_checkpoint_loads() -> None:
    checkpoint = read(OLD / "cityscapes.ckpt")
    assert checkpoint.contents.progress == {"epoch": 0, "step": 3}
    assert checkpoint.provenance["classes"] == ["road"]
    assert checkpoint.content_hash == HASHES["cityscapes.ckpt"]
    assert network_hash(load(OLD / "cityscapes.ckpt", head_of("cityscapes"))) == HASHES["cityscapes.ckpt"]


def test_an_old_export_loads_from_each_of_its_files() -> None:
    for name in ("", "model.safetensors", "pytorch_model.bin"):
        network = load(OLD / "rgb" / name, RGB)
        assert network.config.heads == 2  # as its header says; its weights would be taken for one
        assert network_hash(network) == HASHES["rgb"]


def test_an_old_export_is_exported_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltactl.train.checkpoints.export.__version__", "0.1.0")  # that of the earlier version
    export(OLD / "rgb", tmp_path / "rgb")
    for name in ("config.json", "model.safetensors"):  # the other file's bytes are torch's own
        assert (tmp_path / "rgb" / name).read_bytes() == (OLD / "rgb" / name).read_bytes(), name
