"""Every published stage, by the name of its preset: it builds and takes two steps at tiny sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_training import BACKBONE, FRAMES, SIZE, make_features, make_shards

from deltactl.configs.load import load_preset, preset_names, resolve
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.resume_point import read_resume_point
from deltactl.train.run import train

TOKENIZERS = [name for name in preset_names() if load_preset(name).stage == "tokenizer"]
WORLDS = [name for name in preset_names() if load_preset(name).stage == "world"]
TINY = [
    f"size={SIZE}",
    "batch_size=8",
    "network.depth=1",
    "network.width=128",
    "validation_fraction=0.2",
    "wandb=disabled",
    f"backbone={BACKBONE}",
]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("presets")
    return make_features(make_shards(folder / "shards"), folder / "features")


@pytest.fixture(scope="module")
def tokens(features: str, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("presets") / "tokens")
    tokenize(TokenizeConfig(data=features, out=out, tokenizer=str(golden / "deltatok.bin"), device="cpu", workers=0))
    return out


def two_steps(model: type[Any], preset: str, data: str, folder: Path) -> None:
    """Run two steps of a preset; first, where it goes on from an earlier stage, one of that."""
    assignments = [*TINY, f"data={data}", f"effective_batch={16 if model is TokenizerConfig else 8}"]
    if model is WorldConfig:
        assignments += [f"frames={FRAMES}", *(["queries=4"] if preset != "dinoworld" else [])]
    start = load_preset(preset).values.get("start", "scratch")
    steps = 2
    if start != "scratch":
        earlier = resolve(model, assignments=[*assignments, f"out={folder / 'earlier'}", "steps=1"])
        train(earlier, "earlier")
        steps = 3 if start == "state" else 2
        assignments.append(f"{'resume' if start == 'state' else 'init'}={folder / 'earlier'}")
    config = resolve(model, config=preset, assignments=[*assignments, f"out={folder / 'run'}", f"steps={steps}"])
    result = train(config, preset)
    assert (result.step, result.stopped) == (steps, False)
    point = read_resume_point(str(folder / "run"), result.run)
    assert point is not None
    assert point.step == steps


@pytest.mark.parametrize("preset", TOKENIZERS)
def test_tokenizer_presets_run(preset: str, features: str, tmp_path: Path) -> None:
    two_steps(TokenizerConfig, preset, features, tmp_path)


@pytest.mark.parametrize("preset", WORLDS)
def test_world_presets_run(preset: str, features: str, tokens: str, tmp_path: Path) -> None:
    two_steps(WorldConfig, preset, features if preset == "dinoworld" else tokens, tmp_path)


def test_all_published_stages_are_there() -> None:
    assert {"deltatok-1-pretrain-256", "deltatok-2-finetune-512", "deltatok-3-cooldown", "deltatok-4-cooldown"} <= set(
        TOKENIZERS
    )
    assert {"deltaworld", "deltaworld-2-cooldown", "dinoworld"} <= set(WORLDS)
