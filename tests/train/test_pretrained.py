"""`DeltaTok.from_pretrained` and its siblings: what they write goes round, with what files say beside the weights."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deltactl.errors import CheckpointError, ConfigError
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld
from deltactl.train.networks.dinoworld import DinoWorld
from deltactl.train.networks.heads import DepthHead, SegmentationHead
from deltactl.train.networks.network import Network
from deltactl.train.networks.rgb_head import RGBHead

GOLDEN: dict[str, type[Network]] = {
    "deltatok": DeltaTok,
    "deltaworld": DeltaWorld,
    "dinoworld": DinoWorld,
    "head_vspw": SegmentationHead,
    "head_cityscapes": SegmentationHead,
    "head_kitti": DepthHead,
    "head_rgb": RGBHead,
}
BACKBONE = "0123456789abcdef" * 4


def trained(folder: Path) -> Path:
    """Return a run's checkpoint that says behind which backbone it was trained, and on which machine."""
    network = DeltaTok(DeltaTokConfig(width=64, depth=1, delta=False))
    provenance = {
        "frozen": {"backbone": BACKBONE},
        "trained": {"size": 64, "step_seconds": None, "backbone": "facebook/dinov3-vitb16-pretrain-lvd1689m"},
        "metrics": {"validation/loss": 0.25},
        "command": "/home/somebody/bin/deltactl train",
        "host": "somebodys-machine",
    }
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": network.state_dict(), "global_step": 500, "deltactl": header_of(network, provenance)}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.mark.parametrize("name", GOLDEN)
def test_every_network_goes_round(golden: Path, tmp_path: Path, name: str) -> None:
    network = GOLDEN[name].from_pretrained(golden / f"{name}.bin")
    assert isinstance(network, GOLDEN[name])
    assert not network.training
    network.save_pretrained(tmp_path / "saved")
    export(golden / f"{name}.bin", tmp_path / "exported")
    for folder in ("saved", "exported"):
        again = GOLDEN[name].from_pretrained(tmp_path / folder)
        assert again.config == network.config
        assert network_hash(again) == network_hash(network) == read(golden / f"{name}.bin").content_hash
    for file in ("model.safetensors", "pytorch_model.bin"):
        assert read(tmp_path / "saved" / file).kind == read(tmp_path / "exported" / file).kind
    assert type(Network.from_pretrained(tmp_path / "saved")) is GOLDEN[name]


def test_safetensors_come_first(golden: Path, tmp_path: Path) -> None:
    DeltaTok.from_pretrained(golden / "deltatok.bin").save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "pytorch_model.bin").write_bytes(b"not looked at")
    DeltaTok.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        DeltaTok.from_pretrained(tmp_path / "out")


def test_the_backbone_of_a_networks_training_travels_with_it(tmp_path: Path) -> None:
    network = DeltaTok.from_pretrained(trained(tmp_path / "run"))
    assert network.backbone_hash == BACKBONE
    network.save_pretrained(tmp_path / "out")
    again = DeltaTok.from_pretrained(tmp_path / "out", backbone=BACKBONE)
    assert again.backbone_hash == BACKBONE
    assert again.config.delta is False
    assert again.provenance["metrics"] == {"validation/loss": 0.25}
    assert again.provenance["step"] == 500
    with pytest.raises(CheckpointError, match=r"was trained behind another backbone .*0123456789ab.*ffffffffffff"):
        DeltaTok.from_pretrained(tmp_path / "out", backbone="f" * 64)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"somebody" not in written
    assert copy.deepcopy(again).backbone_hash == BACKBONE
    assert DeltaTok(DeltaTokConfig(width=64, depth=1)).backbone_hash is None


def test_what_no_longer_holds_of_a_network_that_was_trained_further_is_not_said(tmp_path: Path) -> None:
    network = DeltaTok.from_pretrained(trained(tmp_path / "run"))
    before = network_hash(network)
    with torch.no_grad():
        network.norm.bias += 1
    network.save_pretrained(tmp_path / "out")
    again = DeltaTok.from_pretrained(tmp_path / "out")
    assert again.backbone_hash == BACKBONE
    assert again.provenance["trained_from"] == before
    assert not again.provenance.keys() & {"metrics", "step"}


def test_another_network_is_refused_in_one_line(golden: Path) -> None:
    with pytest.raises(CheckpointError, match=r"deltaworld\.bin is a world model .*; a DeltaTok was expected here"):
        DeltaTok.from_pretrained(golden / "deltaworld.bin")
    with pytest.raises(ConfigError, match="revision 'v1' goes with a name on the Hub"):
        DeltaTok.from_pretrained(golden / "deltatok.bin", revision="v1")


def test_nothing_is_overwritten_unasked(golden: Path, tmp_path: Path) -> None:
    network = DeltaTok.from_pretrained(golden / "deltatok.bin")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds 'mine\.txt' already; nothing is overwritten"):
        network.save_pretrained(tmp_path / "full", overwrite=True)
    load(golden / "deltatok.bin").save_pretrained(tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing was removed or overwritten"):
        network.save_pretrained(tmp_path / "out")
    network.save_pretrained(tmp_path / "out", overwrite=True)


def test_a_network_module_imports_no_file_format() -> None:
    """What is written with a network in hand is imported when it is written."""
    code = (
        "import sys, deltactl.train.networks.deltatok\n"
        "print([name for name in sys.modules if name.startswith(('deltactl.train.checkpoints', 'deltactl.share'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
