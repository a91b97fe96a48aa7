"""What is made to be passed on tells what a network is and how it was trained, and nothing of who trained it where."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_training import make_features, make_shards, tokenizer_config

from deltactl.artifacts import make_provenance
from deltactl.publication import publishable
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.resume_point import FOLDER, LAST
from deltactl.train.run import train


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/models/dinov3", "dinov3"),
        ("/home/me/my videos/a b.mp4", "a b.mp4"),
        ("~/weights.bin", "weights.bin"),
        ("../../elsewhere/run", "run"),
        ("C:\\Users\\me\\w.bin", "w.bin"),
        ("toy:/home/me/backbone", "backbone"),
        ("made with toy:/home/me/backbone, twice", "made with backbone, twice"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("s3://my-bucket/team/run", "run"),
        ("file:///home/me/x", "x"),
        ("trained on /data/k700 (train), see /tmp/log.txt", "trained on k700 (train), see log.txt"),
        ("--out=/scratch/me/run", "--out=run"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
        ("https://arxiv.org/abs/2604.04913", "https://arxiv.org/abs/2604.04913"),
        ("workspace/runs/mine", "workspace/runs/mine"),
        ("mIoU 12/34, and/or", "mIoU 12/34, and/or"),
        ("", ""),
    ],
)
def test_of_a_place_its_last_name_is_left(text: str, left: str) -> None:
    assert publishable(text) == left
    assert publishable({"a": [text, 1, None], "b": {"c": text}}) == {"a": [left, 1, None], "b": {"c": left}}


def test_machine_and_command_are_left_out_at_any_depth() -> None:
    facts = {"host": "gpu-7", "starts": [{"command": "deltactl …", "time": "now", "Hostname": "gpu-7"}], "step": 3}
    assert publishable(facts) == {"starts": [{"time": "now"}], "step": 3}


def test_a_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["deltactl", "ingest", "my videos", "--set", "a='b'"])
    assert make_provenance([])["command"] == """deltactl ingest 'my videos' --set 'a='"'"'b'"'"''"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of two steps, exported; and where it was made."""
    folder = tmp_path_factory.mktemp("private-place")
    store = make_features(make_shards(folder / "shards"), folder / "features")
    config = tokenizer_config(store, folder / "run", steps=4, log_every=2, validate_every=2)
    train(config, "tokenizer")
    export(folder / "run" / FOLDER / LAST, folder / "out")
    return folder / "out"


def texts_of(folder: Path) -> dict[str, str]:
    """Return what each file of an export says in words."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        metadata = json.dumps(file.metadata())
    content = torch.load(folder / "pytorch_model.bin", weights_only=True)
    header = json.dumps(content["deltactl"]) if "deltactl" in content else ""
    names = ("README.md", "config.json")
    return {"safetensors": metadata, "bin": header, **{name: (folder / name).read_text() for name in names}}


def test_an_export_says_nothing_of_the_machine(exported: Path) -> None:
    for name, text in texts_of(exported).items():
        assert "private-place" not in text, name
        assert not re.search(r"(?<![\w.])/(home|tmp|root|work|Users)\b", text), name
        assert '"command"' not in text, name
        assert '"host"' not in text, name
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), name


def test_a_card_says_how_the_network_was_trained_and_how_well(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card.partition("## Training")[2].partition("\n## ")[0], re.M))
    assert rows["optimizer steps"] == "4"
    assert rows["frame size"] == "64 px"
    assert rows["backbone"] == "backbone"
    assert "from features" in rows["data"]
    assert re.search(r"training clips \d+", rows["data"])
    assert float(rows["train/loss"]) > 0
    assert float(rows["validation/loss"]) > 0
    header: dict[str, Any] = json.loads((exported / "config.json").read_text())["deltactl"]
    assert header["provenance"]["data"]["dataset"]
    assert "train/samples_per_second" not in header["provenance"]["metrics"], "speed says nothing of the network"


def test_a_network_without_a_header_has_a_card_too(golden: Path, tmp_path: Path) -> None:
    export(golden / "deltatok.bin", tmp_path / "out")
    assert "Its file does not say how it was trained." in (tmp_path / "out" / "README.md").read_text()
