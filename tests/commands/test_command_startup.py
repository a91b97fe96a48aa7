"""Commands that compute start fast: each loads what it computes with, and not what other commands need.

Each command is run on an input that is not there, so that it loads its room and ends; an evaluation of a few clips,
whose features are cached, is run as a whole. Its cost is the processor time of the process, over that of a process that
imports torch alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluations import GOLDEN, ROOTS

ROUNDS = 3
MODELLING = ("transformers", "torch._dynamo", "torch.distributed.tensor")
"""What a backbone's network needs, and nothing else."""
NOT_AT_START = (
    "matplotlib",
    "zarr",
    "tensorstore",
    "webdataset",
    "fsspec",
    "wandb",
    "ray",
    "nvidia",
    "scipy",
    "pandas",
)
NOT_AT_START_OF_EVAL = tuple(name for name in NOT_AT_START if name != "tensorstore")  # it reads the features
TRAINING = ("lightning", "torchmetrics")  # the latter is loaded by the former

COMMANDS = {
    "ingest": (["ingest", "nowhere"], 1.0, (*NOT_AT_START, *TRAINING, *MODELLING, "torch")),
    "featurize": (["featurize", "nowhere"], 2.0, (*NOT_AT_START, *TRAINING, *MODELLING)),
    "tokenize": (["tokenize", "nowhere", "--tokenizer", "nowhere"], 2.0, (*NOT_AT_START, *TRAINING, *MODELLING)),
    "eval": (
        ["eval", "--dataset", "vspw", "--root", ".", "--backbone", "nowhere"],
        2.0,
        (*NOT_AT_START, *TRAINING, *MODELLING),
    ),
    "predict": (
        ["predict", "nowhere.mp4", "--tokenizer", "nowhere", "--world", "nowhere"],
        2.0,
        (*NOT_AT_START, *TRAINING, *MODELLING),
    ),
    "surprise": (
        ["surprise", "nowhere.mp4", "--tokenizer", "nowhere", "--world", "nowhere"],
        2.0,
        (*NOT_AT_START, *TRAINING, *MODELLING),
    ),
    "verify": (["verify", "nowhere"], 2.0, (*NOT_AT_START, *TRAINING, *MODELLING)),
}
"""Command to its words, the most that it may cost over importing torch, and modules that it must not load."""

CACHED = [
    "eval", "--dataset", "vspw", "--root", str(ROOTS["vspw"]), "--backbone", str(GOLDEN / "backbone"), "--size", "64",
    "--tokenizer", str(GOLDEN / "deltatok.bin"), "--world", str(GOLDEN / "deltaworld.bin"), "--samples", "2",
    "--head", str(GOLDEN / "head_vspw.bin"), "--device", "cpu", "--pictures", "0", "--no-extras", "--yes",
]  # fmt: skip
"""An evaluation without pictures and charts, which matplotlib draws."""
BACKBONE = ("transformers.models.dinov3_vit.modeling_dinov3_vit", "transformers.modeling_utils", "torch._dynamo")
"""What loads with a backbone's network, or with torch's compiler."""

RUN = """
import json, sys
from deltactl.cli import main
expected, unwanted = json.loads(sys.argv[1])
code = main(sys.argv[2:])
loaded = [name for name in unwanted if name in sys.modules]
sys.exit(f"exit code {code}, expected {expected}" if code != expected else f"loaded: {loaded}" if loaded else 0)
"""


def seconds(folder: Path, *words: str) -> float:
    """Return the processor time of a process of Python with these words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(
    folder: Path, library: str, limit: float, words: Sequence[str], unwanted: Sequence[str], code: int = 1
) -> float:
    """Return what a command costs over importing a library: the least of each, tried again where it seems too much."""
    command, alone = [], []
    for _ in range(ROUNDS):
        alone.append(seconds(folder, "-c", f"import {library}"))
        command.append(seconds(folder, "-c", RUN, json.dumps([code, unwanted]), *words))
        if min(command) <= limit * min(alone):
            break
    return min(command) / min(alone)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_costs_at_most_twice_the_import_of_torch(command: str, folder: Path) -> None:
    words, limit, unwanted = COMMANDS[command]
    ratio = cost(folder, "torch", limit, words, unwanted)
    assert ratio <= limit, f"deltactl {command} costs {ratio:.2f} × the import of torch, expected at most {limit}"


def test_a_cached_evaluation_loads_no_backbone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Measured at 2.5: of it 1 is torch, 0.5 transformers (the backbone's sizes), 0.4 the evaluation.
    monkeypatch.setenv("DELTACTL_HOME", str(folder / "workspace"))
    seconds(folder, "-m", "deltactl", *CACHED)
    ratio = cost(folder, "torch", 3.0, CACHED, (*NOT_AT_START_OF_EVAL, *TRAINING, *BACKBONE), code=0)
    assert ratio <= 3.0, f"a cached deltactl eval costs {ratio:.2f} × the import of torch, expected at most 3.0"


def test_training_costs_little_more_than_the_import_of_lightning(folder: Path) -> None:
    # Lightning alone takes about 2.7 × torch: it loads torchmetrics, and with it matplotlib and transformers.
    words = ["train", "tokenizer", "nowhere"]
    ratio = cost(
        folder, "lightning.pytorch", 1.5, words, ("zarr", "tensorstore", "webdataset", "wandb", "ray", "nvidia")
    )
    assert ratio <= 1.5, f"deltactl train costs {ratio:.2f} × the import of Lightning, expected at most 1.5"
