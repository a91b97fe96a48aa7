"""Evaluation and prediction with four tokens a frame: every row, the same futures everywhere, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import DATASETS, GOLDEN, four_tokens, quiet, tiny
from programs import caller
from videos import make_video

from deltactl.configs.predict import PredictConfig
from deltactl.evaluate.predict.run import run_predict
from deltactl.evaluate.protocol.futures import draw_queries, sequences_at_once
from deltactl.evaluate.run import run as evaluate
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.networks.deltaworld import WORLD


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return four_tokens(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_a_tree_is_there(
    dataset: str, weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    evaluate(tiny(dataset, extras=True, out=str(tmp_path / "report"), **weights), quiet)
    content = json.loads((tmp_path / "report/metrics.json").read_text())
    methods = {(row["method"], row["select"]) for row in content["rows"]}
    assert methods >= {("deltatok", None), ("deltaworld", "best"), ("deltaworld", "mean"), ("noise_null", "best")}
    assert all(np.isfinite(row["loss"]) for table in ("rows", "best_of_k", "drift") for row in content[table])
    best = {row["k"]: row["loss"] for row in content["best_of_k"] if row["horizon"] == 3}
    assert list(best) == [1, 2, 5]
    assert best[1] >= best[2] >= best[5]
    assert any("tokens_per_frame 4 (published: 1)" in phrase for phrase in content["departures"])


def test_a_prediction_is_the_networks_own(weights: dict[str, str], tmp_path: Path) -> None:
    video = make_video(tmp_path / "street.mp4", frames=60, rate=30)
    settings = {"size": 64, "samples": 3, "device": "cpu", "at": 1.0, "out": str(tmp_path / "out"), **weights}
    run_predict(PredictConfig(video=str(video), backbone=str(GOLDEN / "backbone"), **settings), quiet)
    with np.load(tmp_path / "out/features.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in ("context", "futures", "context_times", "future_times")}
    tokenizer, world = load(weights["tokenizer"], TOKENIZER), load(weights["world"], WORLD)
    black = Backbone.load(str(GOLDEN / "backbone"), "cpu").black_features(64, 64)
    context = found["context"].float()[None]
    tokens = tokenizer.encode_clip(context, black, (4, 4))
    assert tokens.shape == (1, 4, 4, 32)
    times = {name: (found[f"{name}_times"] - found["context_times"][0]).float()[None] for name in ("context", "future")}
    horizon = times["future"].shape[1]
    queries = draw_queries(seed=0, key="predict", view=0, samples=3, horizon=horizon, width=64)[None]
    expected = world.rollout(tokens, times["context"], times["future"], context[:, -1], tokenizer, (4, 4), queries)
    torch.testing.assert_close(found["futures"].float(), expected[0], rtol=2e-3, atol=2e-3)


def test_a_world_model_of_other_tokens_is_refused_with_both_numbers(
    weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = make_video(tmp_path / "street.mp4", frames=60, rate=30)
    words = ("--backbone", str(GOLDEN / "backbone"), "--tokenizer", weights["tokenizer"], "--size", "64")
    code, _, error = caller(capsys)(
        "predict", str(video), *words, "--world", str(GOLDEN / "deltaworld.bin"), "--out", str(tmp_path / "out")
    )
    assert code == 1
    assert "deltaworld.bin is for 1 token a frame, but the tokenizer" in error
    assert "four-tokenizer.bin makes 4; name the one that belongs to it" in error
    assert not (tmp_path / "out").exists()


def test_what_runs_at_once_on_a_card_counts_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 1 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    card = torch.device("cuda")
    assert sequences_at_once(card, 256, 768) == sequences_at_once(card, 256, 768, 1)
    assert sequences_at_once(card, 256, 768, 257) == sequences_at_once(card, 512, 768)
