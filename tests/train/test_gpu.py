"""Training on a GPU: bf16, fused, clipped; the same samples and nearly the same losses as on a CPU.

Compiled training has processes of its own, see `test_compiled`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.tokenization.run import run as tokenize
from deltactl.train.run import train

pytestmark = pytest.mark.gpu
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


@pytest.fixture(autouse=True)
def _without_shape_checks() -> Any:
    """torch.compile fails under jaxtyping's hook."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("gpu") / "shards")


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("gpu") / "features")


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("way", ["features", "shards"])
def test_the_tokenizer_trains_as_on_a_cpu(way: str, features: str, shards: str, tmp_path: Path) -> None:
    data = features if way == "features" else shards
    for accelerator in ("cpu", "cuda"):
        config = tokenizer_config(
            data,
            tmp_path / accelerator,
            steps=6,
            log_every=1,
            compile=False,
            trainer={"accelerator": accelerator, "devices": 1},
        )
        train(config, accelerator)
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.03)


def test_world_models_train_from_tokens_on_the_device(features: str, tmp_path: Path) -> None:
    tokens = str(tmp_path / "tokens")
    tokenize(TokenizeConfig(data=features, out=tokens, tokenizer=TOKENIZER, device="cuda", workers=0))
    config = world_config(
        tokens, tmp_path / "run", steps=6, log_every=1, compile=False, trainer={"accelerator": "cuda", "devices": 1}
    )
    train(config, "run")
    train(config.model_copy(update={"steps": 8, "resume": "auto"}), "run")
    assert len(losses(tmp_path / "run")) == 8
    assert torch.isfinite(torch.tensor(losses(tmp_path / "run"))).all()


def test_it_trains_in_float16(features: str, tmp_path: Path) -> None:
    trainer = {"accelerator": "cuda", "devices": 1}
    config = tokenizer_config(
        features, tmp_path, steps=6, log_every=1, compile=False, precision="16-mixed", trainer=trainer
    )
    train(config, "run")
    assert torch.isfinite(torch.tensor(losses(tmp_path))).all()
