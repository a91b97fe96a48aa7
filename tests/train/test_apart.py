"""Networks, stores and backbones that do not belong together are refused by both, whatever their widths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from preset_runs import FEW, train_by_presets
from small_training import BACKBONE, SIZE, make_features, make_shards
from transformers import Dinov2Config, Dinov2Model
from videos import make_video

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards") / "shards", units=1)


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("store") / "features")


@pytest.fixture(scope="module")
def runs(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a world model behind the backbone of the store."""
    return train_by_presets(store, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_video(tmp_path_factory.mktemp("video") / "street.mp4", frames=60, rate=30))


def test_layers_alone_are_those_of_the_backbone_at_hand(store: str, runs: Path, tmp_path: Path, run: Run) -> None:
    """Not of the default one, which nobody named."""
    code, _, err = run("train", "tokenizer", store, "--layers", "1", "--out", str(tmp_path / "run"), *FEW)
    assert code == 1
    assert f"--backbone is {BACKBONE}?layers=1 (" in err
    code, _, err = run("tokenize", store, "--tokenizer", str(runs / "tokenizer"), "--layers", "9")
    assert code == 1
    assert "layers 9 are not there: choose from 1 to" in err


def test_networks_behind_another_backbone_of_their_width_are_refused(
    shards: str, store: str, runs: Path, video: str, tmp_path: Path, run: Run
) -> None:
    other = str(shutil.copytree(BACKBONE, tmp_path / "backbone"))
    values = json.loads((BACKBONE / "preprocessor_config.json").read_text())
    (Path(other) / "preprocessor_config.json").write_text(json.dumps({**values, "image_mean": [0.1, 0.2, 0.3]}))
    tokenizer, world = ("--tokenizer", str(runs / "tokenizer")), ("--world", str(runs / "world"))
    features = str(tmp_path / "features")
    assert run("featurize", shards, "--backbone", other, "--size", str(SIZE), "--out", features)[0] == 0
    for words in (
        ("tokenize", features, *tokenizer),
        ("tokenize", shards, *tokenizer, "--backbone", other),
        ("train", "world", features, *tokenizer, *FEW),
        ("predict", video, *tokenizer, *world, "--backbone", other),
        ("surprise", video, *tokenizer, *world, "--backbone", other),
    ):
        code, _, err = run(*words, "--out", str(tmp_path / "refused"))
        assert code == 1, words
        (line,) = (line for line in err.splitlines() if line.startswith("error: "))
        assert "was trained behind another backbone (content hash" in line, words
        assert "leave --backbone and --layers out, or name networks and features that belong together" in line
        assert not (tmp_path / "refused").exists()


def test_a_tokenizer_of_another_width_to_start_from_is_told_by_both(shards: str, tmp_path: Path, run: Run) -> None:
    deltatok = BACKBONE.parent / "deltatok.bin"
    narrow = tmp_path / "narrow"
    Dinov2Model(
        Dinov2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, patch_size=16, image_size=64)
    ).save_pretrained(narrow)
    shutil.copy(BACKBONE / "preprocessor_config.json", narrow)
    words = ("--backbone", str(narrow), "--init", str(deltatok), "--size", str(SIZE), *FEW)
    code, _, err = run("train", "tokenizer", shards, *words, "--out", str(tmp_path / "run"))
    assert code == 1
    assert f"{deltatok} is for features of width 128, but the backbone {narrow} makes features of width 64" in err
