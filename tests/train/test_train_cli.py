"""`deltactl tokenize` and `deltactl train …` as a user runs them: commands, exit codes, a recipe, two processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import FRAMES, SIZE, make_features, make_shards

from deltactl.configs.load import resolve
from deltactl.configs.recipe import RecipeConfig
from deltactl.featurize.store.reader import TokenStore
from deltactl.recipes.run import plan_recipe

Run = Callable[..., tuple[int, str, str]]
SMALL = {
    "size": SIZE,
    "effective_batch": 8,
    "batch_size": 8,
    "network.width": 128,
    "network.depth": 1,
    "network.layer_scale": 0.1,
    "validation_fraction": 0.2,
    "log_every": 1,
    "last_every": 2,
    "warmup_steps": 0,
    "wandb": "disabled",
}
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    return make_features(make_shards(folder / "shards"), folder / "features")


def small(**changes: Any) -> list[str]:
    return [word for key, value in {**SMALL, **changes}.items() for word in ("--set", f"{key}={value}")]


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_tokenize_train_and_go_on(store: str, run: Run, tmp_path: Path) -> None:
    tokenizer, tokens, world = (str(tmp_path / name) for name in ("tokenizer", "tokens", "world"))
    code, out, err = run("train", "tokenizer", store, "--out", tokenizer, "--steps", "3", *small())
    assert code == 0, err
    assert "3 steps done" in out
    code, out, err = run("tokenize", store, "--tokenizer", tokenizer, "--out", tokens)
    assert code == 0, err
    assert "24 crops done" in out
    settings = small(frames=FRAMES, queries=4)
    code, out, err = run("train", "world", tokens, "--out", world, "--steps", "2", *settings)
    assert code == 0, err
    code, out, err = run("train", "world", tokens, "--out", world, "--steps", "4", "--resume", "auto", *settings)
    assert code == 0, err
    assert len(rows(tmp_path / "world", "train/loss")) == 4


def test_errors_are_one_line(store: str, run: Run, tmp_path: Path) -> None:
    code, _, err = run("tokenize", store)
    assert (code, err) == (1, "error: no tokenizer is named; give its checkpoint: --tokenizer CKPT\n")
    code, _, err = run("train", "tokenizer", store, "--out", str(tmp_path / "run"), "--size", "256")
    assert code == 1
    assert "leave size out, add --size 64" in err
    code, _, err = run("train", "world", "--config", "deltatok-1-pretrain-256")
    assert code == 1
    assert "is for 'tokenizer'" in err
    code, _, err = run("train", "tokenizer", store, "--steps", "3", "--set", "steps=4")
    assert code == 1
    assert "disagree" in err
    code, _, err = run("train", "head", "--shards", "x")
    assert code == 1
    assert "--dataset" in err
    code, _, err = run("train", "--yes", "world")
    assert code == 2


def test_the_tokenize_plan_writes_nothing(store: str, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("tokenize", store, "--tokenizer", TOKENIZER, "--out", str(tmp_path / "tokens"), "--dry-run")
    assert code == 0
    assert "24 crops to do" in out
    assert not (tmp_path / "tokens").exists()


# --- as a process ----------------------------------------------------------------------------------------------------


def start(*words: str, tmp_path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DELTACTL_HOME": str(tmp_path / "workspace")}
    return subprocess.Popen(
        [sys.executable, "-m", "deltactl", *words],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_writes_last_and_says_how_to_go_on(store: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(
        "train",
        "tokenizer",
        store,
        "--out",
        str(out),
        "--steps",
        "100000",
        *small(last_every=100000),
        tmp_path=tmp_path,
    )
    metrics = out / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with --out {out} --resume auto" in err
    step = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 3
    assert f"stopped after step {step}" in err.replace(",", "")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "world"])
def test_two_processes_see_the_samples_of_one(stage: str, store: str, run: Run, tmp_path: Path) -> None:
    """Gloo on a CPU: the same global batches, so the same losses and, but for rounding, the same weights."""
    data, changes = store, {}
    if stage == "world":
        data, changes = str(tmp_path / "tokens"), {"frames": FRAMES, "queries": 4}
        assert run("tokenize", store, "--tokenizer", TOKENIZER, "--out", data)[0] == 0
    for devices in (1, 2):
        settings = small(
            batch_size=8 // devices,
            validate_every=3,
            steps=6,
            **{"trainer.devices": devices, "trainer.accelerator": "cpu", **changes},
        )
        process = start("train", stage, data, "--out", str(tmp_path / str(devices)), *settings, tmp_path=tmp_path)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.count("6 steps done") == 1, "once for all its processes"
        assert "Initializing" not in out + err, "what libraries say of processes is not for users"
    assert "4 samples × 2 devices × 1 batch;" in err
    for column in ("train/loss", "validation/loss"):
        one, two = (rows(tmp_path / devices, column) for devices in ("1", "2"))
        assert two == pytest.approx(one, rel=1e-3), column
    one, two = (
        torch.load(tmp_path / devices / "checkpoints" / "last.ckpt", weights_only=True) for devices in ("1", "2")
    )
    assert one["global_step"] == two["global_step"] == 6
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][name], atol=2e-3), name


@pytest.mark.slow
def test_a_recipe_runs_what_is_missing(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "workspace"
    (home / "features").mkdir(parents=True)
    (home / "features" / "bars").symlink_to(store)
    network = "{width: 128, depth: 1, layer_scale: 0.1}"
    common = (
        f"size: {SIZE}, batch_size: 8, effective_batch: 8, validation_fraction: 0.2, wandb: disabled, "
        f"network: {network}"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
stage: recipe
steps:
  first:
    run: tokenizer
    data: features/bars
    settings: {{{common}, steps: 2}}
  tokens:
    run: tokenize
    data: features/bars
    tokenizer: first
  world:
    run: world
    data: tokens
    settings: {{{common}, steps: 2, frames: {FRAMES}, queries: 4}}
"""
    )
    process = start("train", "--recipe", str(recipe), tmp_path=tmp_path)
    out, err = process.communicate(timeout=280)
    assert (process.returncode, out.count("to do")) == (1, 3)
    assert "nothing was started: 3 steps are to do; add --yes, or give the command on a terminal, which asks" in err
    assert not (home / "runs").exists()
    process = start("train", "--recipe", str(recipe), "--yes", tmp_path=tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert out.count("to do") == 3
    assert len(TokenStore.open(str(home / "tokens" / "tokens"))) == 24
    monkeypatch.setenv("DELTACTL_HOME", str(home))
    steps = plan_recipe(resolve(RecipeConfig, config=str(recipe)))
    assert [step.state for step in steps] == ["done"] * 3
    (home / "runs" / "world" / "checkpoints" / "last.ckpt").unlink()
    assert [step.state for step in plan_recipe(resolve(RecipeConfig, config=str(recipe)))] == ["done"] * 2 + ["to do"]


def test_a_recipe_whose_last_step_lacks_its_data_starts_nothing(store: str, run: Run, tmp_path: Path) -> None:
    """Each of the missing inputs is named, of all steps, with `--yes` too."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
stage: recipe
steps:
  first:
    run: tokenizer
    data: {store}
    settings: {{steps: 2}}
  second:
    run: tokenizer
    data: {store}
    init: first
    settings: {{steps: 2, size: 512}}
  tokens:
    run: tokenize
    data: features/not-there
    tokenizer: first
  world:
    run: world
    data: tokens
    tokenizer: {tmp_path}/nowhere.bin
  untokenized:
    run: world
    data: {store}
  started:
    run: tokenizer
    data: {store}
    settings: {{start: weights}}
"""
    )
    code, out, err = run("train", "--recipe", str(recipe), "--yes")
    assert code == 1
    assert out.count("cannot run: ") == 5
    assert f"untokenized: {store} holds features; a world model needs --tokenizer CKPT there, or tokens" in err
    assert "started: this stage starts from the weights of an earlier run" in err
    assert f"second: size is set to 512, but {store} has {SIZE}" in err
    assert "tokens: " in err
    assert "not-there" in err
    assert f"world: checkpoint {tmp_path}/nowhere.bin does not exist" in err
    assert "nothing was started" in err
    assert not (tmp_path / "workspace" / "runs").exists()


def test_the_published_recipe_is_the_published_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path))
    steps = plan_recipe(resolve(RecipeConfig, config="published"))
    commands = [" ".join(step.words).replace(str(tmp_path), "W") for step in steps]
    assert commands[0].startswith("train tokenizer W/features/kinetics-vitb16-256 --out W/runs/deltatok-1 --config")
    assert "--init W/runs/deltatok-1/checkpoints/last.ckpt" in commands[1]
    assert "--resume W/runs/deltatok-3/checkpoints/last.ckpt" in commands[3]
    assert "--tokenizer W/runs/deltatok-4/checkpoints/last.ckpt" in commands[4]
    assert commands[5].startswith("train world W/tokens/tokens --out W/runs/deltaworld-1")
    assert all(step.state == "to do" for step in steps)
    assert "8 H200, 82 h" in steps[0].line()
