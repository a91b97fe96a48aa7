"""The name of a backbone carries its layers: settings go into it, stores and checkpoints hand it on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from programs import caller
from small_training import BACKBONE, SMALL, make_shards

from deltactl.configs.backbone_name import BackboneName, LayerChoice
from deltactl.configs.base import parse
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.predict import PredictConfig
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.known import read_facts
from deltactl.featurize.plan import default_name
from deltactl.featurize.store.reader import FeatureStore
from deltactl.train.checkpoints.trained import Trained, trained_of


@pytest.mark.parametrize(
    ("text", "family", "place", "choice"),
    [
        ("facebook/dinov2-base", None, "facebook/dinov2-base", LayerChoice()),
        ("facebook/dinov2-base?layers=8,11", None, "facebook/dinov2-base", LayerChoice((8, 11))),
        ("timm:/models/mine?layers=3&norm=off", "timm", "/models/mine", LayerChoice((3,), norm=False)),
        ("/models/mine?norm=off", None, "/models/mine", LayerChoice(norm=False)),
    ],
)
def test_a_name_is_read_and_written_alike(text: str, family: str | None, place: str, choice: LayerChoice) -> None:
    assert BackboneName.parse(text) == BackboneName(family, place, choice)
    assert str(BackboneName.parse(text)) == text


def test_a_folder_that_is_there_is_a_folder_whatever_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "mine?layers=2"
    folder.mkdir()
    assert BackboneName.parse(str(folder)).place == str(folder)
    assert BackboneName.parse(f"{folder}?layers=3") == BackboneName(None, str(folder), LayerChoice((3,)))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"layers": [8, 11]}, "x/y?layers=8,11"),
        ({"norm": False}, "x/y?norm=off"),
        ({"norm": True}, "x/y"),
        ({"layers": [3], "norm": False}, "x/y?layers=3&norm=off"),
        ({"backbone": "x/y?norm=off", "layers": [3]}, "x/y?layers=3&norm=off"),
        ({"backbone": "x/y?layers=3", "layers": [3]}, "x/y?layers=3"),
    ],
)
def test_settings_become_a_part_of_the_name(values: dict[str, object], name: str) -> None:
    config = parse(FeaturizeConfig, {"backbone": "x/y", **values})
    assert (config.backbone, config.layers, config.norm) == (name, None, None)
    assert config.model_fields_set == {"backbone"}
    assert parse(FeaturizeConfig, config.model_dump(mode="json")).backbone == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": []}, r"layers are \[\]; expected numbers of blocks, counted from 1"),
        ({"layers": [0]}, r"layers are \[0\]"),
        ({"layers": [2, 2]}, r"layers are \[2, 2\]; each may be named once"),
        ({"backbone": "x/y?layers=2", "layers": [3]}, r"x/y\?layers=2 and layers 3 contradict each other"),
        ({"backbone": "x/y?norm=off", "norm": True}, r"x/y\?norm=off is without the final norm, and norm is on"),
        ({"backbone": "x/y?layer=2"}, r"option 'layer=2' of a backbone is no such; expected the like of \?layers=8,11"),
        ({"backbone": "x/y?layers=2&layers=3"}, "option 'layers=3'"),
        ({"backbone": "x/y?"}, "option ''"),
        ({"backbone": "x/y?norm=no"}, "option 'norm=no'"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(FeaturizeConfig, values)


def test_default_names_tell_layers_apart() -> None:
    names = ["facebook/dinov2-base", "facebook/dinov2-base?layers=8,11", "facebook/dinov2-base?layers=8,11&norm=off"]
    assert [default_name("kinetics", name, FrameSize.of(266)) for name in names] == [
        "kinetics-dinov2-base-266",
        "kinetics-dinov2-base-l8-11-266",
        "kinetics-dinov2-base-l8-11-raw-266",
    ]
    assert default_name("kinetics", "facebook/ijepa_vith14_1k", FrameSize.of(224)) == "kinetics-ijepa_vith14_1k-224"
    dinov3 = "facebook/dinov3-vitb16-pretrain-lvd1689m?norm=off"
    assert default_name("kinetics", dinov3, FrameSize.of(256)) == "kinetics-vitb16-raw-256"


def test_a_checkpoints_header_keeps_the_choice_of_a_published_backbone() -> None:
    assert Trained(backbone="facebook/dinov2-base?layers=8").to_json()["backbone"] == "facebook/dinov2-base?layers=8"
    assert Trained(backbone="/home/me/dinov2-base?layers=8").to_json()["backbone"] is None


def test_what_was_trained_behind_a_choice_is_used_behind_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call = caller(capsys)
    shards, run, store = make_shards(tmp_path / "shards", units=1), str(tmp_path / "run"), str(tmp_path / "features")
    chosen = f"{BACKBONE}?layers=1&norm=off"
    small = {**SMALL, "steps": 2, "validate_every": 2, "checkpoint_every": 2, "network.depth": 1, "warmup_steps": 1}
    words = [word for name, value in small.items() if name != "size" for word in ("--set", f"{name}={value}")]
    options = ["--backbone", str(BACKBONE), "--layers", "1", "--no-norm", "--size", "64"]
    code, _, error = call("train", "tokenizer", shards, *options, "--out", run, *words)
    assert code == 0, error
    assert trained_of(run).backbone == chosen

    code, _, error = call("featurize", shards, *options, "--out", store, "--device", "cpu")
    assert code == 0, error
    with FeatureStore.open(store) as features:
        assert features.identity.text("backbone") == read_facts(chosen).content_hash
    for data in (shards, store):
        tokens = str(tmp_path / f"tokens of {Path(data).name}")
        code, _, error = call("tokenize", data, "--tokenizer", run, "--out", tokens, "--device", "cpu")
        assert code == 0, error
        assert "mean little" not in error


def test_every_command_with_a_backbone_takes_the_choice() -> None:
    config = parse(PredictConfig, {"video": "a.mp4", "tokenizer": "t", "world": "w", "layers": [2]})
    assert config.backbone.endswith("?layers=2")


def test_a_store_of_another_backbone_or_tokenizer_is_told_by_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    call = caller(capsys)
    shards, store, tokens = make_shards(tmp_path / "shards", units=1), str(tmp_path / "store"), str(tmp_path / "tokens")
    other = Path(shutil.copytree(BACKBONE, tmp_path / "brighter"))
    values = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**values, "image_mean": [0.1, 0.2, 0.3]}))
    made = ("featurize", shards, "--size", "64", "--device", "cpu", "--out", store)
    assert call(*made, "--backbone", str(BACKBONE))[0] == 0
    code, _, error = call(*made, "--backbone", str(other))
    here, there = (read_facts(str(name)).content_hash[:12] for name in (other, BACKBONE))
    assert code == 1
    assert f"backbone is {BACKBONE} ({there}…) there, {other} ({here}…) here; choose another --out" in error

    golden = BACKBONE.parent
    changed = tmp_path / "changed.bin"
    weights = torch.load(golden / "deltatok.bin", weights_only=True)
    torch.save({name: value * 1.01 for name, value in weights.items()}, changed)
    tokenize = ("tokenize", store, "--device", "cpu", "--out", tokens, "--tokenizer")
    assert call(*tokenize, str(golden / "deltatok.bin"))[0] == 0
    code, _, error = call(*tokenize, str(changed))
    assert code == 1
    assert re.search(rf"tokenizer is \S*/deltatok.bin \(\w{{12}}…\) there, {changed} \(\w{{12}}…\) here", error)
