"""Training on two nodes by the lines of `docs/scaling.md`, torchrun's and Slurm's: each node a gloo process here.

The lines run as they stand there, from a folder that has what they name; only the numbers of nodes and GPUs, the
address and, with `--set`, the sizes are smaller.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import FRAMES, SIZE, make_features, make_shards

from deltactl.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
TOKENIZER = Path(__file__).parents[1] / "golden" / "deltatok.bin"
SMALL = {
    "size": SIZE,
    "effective_batch": 8,
    "network.width": 128,
    "network.depth": 1,
    "network.layer_scale": 0.1,
    "validation_fraction": 0.2,
    "validate_every": 3,
    "log_every": 1,
    "warmup_steps": 0,
    "wandb": "disabled",
    "trainer.accelerator": "cpu",
}
TOKENIZER_ONLY = {"lr": 1e-3}
WORLD_ONLY = {"frames": FRAMES, "queries": 4}
TWO_NODES = {"batch_size": 4, "trainer.devices": 1, "trainer.num_nodes": 2}
ONE_PROCESS = {"batch_size": 8, "trainer.devices": 1, "trainer.num_nodes": 1}
SECONDS = 240


# --- the page's lines ------------------------------------------------------------------------------------------------


def block(start: str) -> list[str]:
    """Return the lines of the page's shell block that begins so, continued lines joined."""
    (found,) = (part.split("```")[0] for part in PAGE.split("```sh\n")[1:] if part.startswith(start))
    return found.replace("\\\n", " ").splitlines()


def torchrun_line() -> list[str]:
    """Return the words of the page's line for two nodes, with one process each on this machine."""
    (line,) = (line for line in block("# 16 GPUs: on each of two nodes") if line.startswith("torchrun"))
    assert "--nnodes 2 --nproc-per-node 8" in line
    line = line.replace("--nproc-per-node 8", "--nproc-per-node 1").replace("$HEAD:29500", f"127.0.0.1:{free_port()}")
    return [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]


def slurm_script() -> tuple[list[str], dict[str, str]]:
    """Return the words that `srun` of the page's script starts, and Slurm's settings, with two nodes of one task."""
    lines = block("#!/bin/sh\n#SBATCH")
    (command,) = (line for line in lines if line.startswith("srun"))
    words = shlex.split(command)
    options = dict(
        word.removeprefix("--").split("=")
        for line in lines
        if line.startswith("#SBATCH")
        for word in line.split()[1:]
        if "=" in word
    )
    assert (options["nodes"], options["ntasks-per-node"]) == ("4", "8")
    assert options["signal"] == "TERM@120"
    assert "--kill-on-bad-exit=1" in words[: words.index("deltactl")]
    job = next(number for number in random.sample(range(2000, 9000), 100) if is_free(15_000 + number))
    environment = {
        "SLURM_JOB_ID": f"77{job}",  # Lightning's port follows from its last four digits
        "SLURM_JOB_NAME": "train.sh",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.[1-2]",
        "SLURM_JOB_NODELIST": "127.0.0.[1-2]",
    }
    return words[words.index("deltactl") :], environment


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as made:
        try:
            made.bind(("", port))
        except OSError:
            return False
    return True


# --- running them ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    return Path(make_features(make_shards(folder / "shards"), folder / "features"))


@pytest.fixture
def there(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that has the data which the page's lines name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "kinetics-vitb16-512").symlink_to(store)
    return tmp_path


def made(changes: dict[str, Any]) -> list[str]:
    return [word for key, value in {**SMALL, **changes}.items() for word in ("--set", f"{key}={value}")]


def here(*words: str, **changes: Any) -> None:
    """Run a training in this process."""
    assert main(["train", *words, *made({**ONE_PROCESS, **changes})]) == 0


def start(words: Sequence[str], changes: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    """Start the process of one node, with the page's own --set of devices and nodes replaced."""
    kept = [word for word in words if not word.startswith("trainer.")]
    kept = [
        word for word, following in zip(kept, [*kept[1:], ""], strict=True) if (word, following) != ("--set", "--set")
    ]
    if kept[-1] == "--set":
        kept.pop()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [*kept, *made({**TWO_NODES, **changes})],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_torchrun(**changes: Any) -> list[subprocess.Popen[str]]:
    words = torchrun_line()
    return [start(words, {**TOKENIZER_ONLY, **changes}) for _ in range(2)]


def start_slurm(**changes: Any) -> list[subprocess.Popen[str]]:
    words, environment = slurm_script()
    return [
        start(
            words,
            {**WORLD_ONLY, **changes},
            **environment,
            SLURM_PROCID=str(node),
            SLURM_NODEID=str(node),
            SLURM_LOCALID="0",
        )
        for node in range(2)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return code, stdout and stderr of each, once all have ended."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=SECONDS)
            found.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return found


def rows(run: str, column: str) -> list[float]:
    with (Path(run) / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def last(run: str) -> dict[str, Any]:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_training(one: str, other: str, step: int) -> None:
    """Two runs have the same figures and weights, up to the rounding of sums in another order."""
    assert last(one)["global_step"] == last(other)["global_step"] == step
    for column in ("train/loss", "validation/loss"):
        assert rows(other, column) == pytest.approx(rows(one, column), rel=1e-3), column
    for name, value in last(one)["state_dict"].items():
        assert torch.allclose(value, last(other)["state_dict"][name], atol=2e-3), name


def assert_written_once(run: str, errors: list[str], starts: int) -> None:
    """One process, rank 0, says what it does and writes, and it leaves nothing unfinished."""
    speaking = [text for text in errors if "effective batch 8 = 4 samples × 2 devices × 1 batch;" in text]
    assert len(speaking) == 1
    assert not any("GLOBAL_RANK" in text for text in errors), "Lightning's own lines are not for users"
    assert len(json.loads((Path(run) / "provenance.json").read_text())) == starts
    with (Path(run) / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert not [path for path in Path(run).rglob("*") if "partial" in path.name or "tmp" in path.name]


# --- what they do ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_on_two_nodes_trains_as_one_process_which_goes_on_from_it(there: Path) -> None:
    data = "features/kinetics-vitb16-512"
    here("tokenizer", data, "--config", "deltatok-1-pretrain-256", "--out", "runs/deltatok-1", steps=1)
    found = ends(start_torchrun(steps=4))
    assert [code for code, _, _ in found] == [0, 0], found
    assert_written_once("runs/deltatok-2", [err for _, _, err in found], starts=1)
    assert [out.count("4 steps done") for _, out, _ in found].count(1) == 1
    words = ("tokenizer", data, "--config", "deltatok-2-finetune-512", "--init", "runs/deltatok-1")
    here(*words, "--out", "one", steps=4, **TOKENIZER_ONLY)
    assert_same_training("one", "runs/deltatok-2", 4)
    for run in ("one", "runs/deltatok-2"):
        here(*words, "--out", run, "--resume", "auto", steps=7, **TOKENIZER_ONLY)
    assert_same_training("one", "runs/deltatok-2", 7)


@pytest.mark.slow
def test_slurm_on_two_nodes_goes_on_from_one_process_and_trains_as_it_does(there: Path) -> None:
    tokens_at("tokens/deltatok-4")
    words = ("world", "tokens/deltatok-4", "--config", "deltaworld")
    for run in ("one", "runs/deltaworld-1"):
        here(*words, "--out", run, steps=3, **WORLD_ONLY)
    here(*words, "--out", "one", "--resume", "auto", steps=6, **WORLD_ONLY)
    found = ends(start_slurm(steps=6))
    assert [code for code, _, _ in found] == [0, 0], found
    assert_written_once("runs/deltaworld-1", [err for _, _, err in found], starts=2)
    assert_same_training("one", "runs/deltaworld-1", 6)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_sigterm_saves_and_stops_on_both_nodes(there: Path, launcher: str) -> None:
    """Slurm's `--signal=TERM@120` reaches every task; torchrun passes on what the one of a single node gets."""
    begin: Callable[..., list[subprocess.Popen[str]]]
    if launcher == "slurm":
        tokens_at("tokens/deltatok-4")
        run, begin, changes = "runs/deltaworld-1", start_slurm, WORLD_ONLY
        words = ("world", "tokens/deltatok-4", "--config", "deltaworld")
    else:
        data = "features/kinetics-vitb16-512"
        here("tokenizer", data, "--config", "deltatok-1-pretrain-256", "--out", "runs/deltatok-1", steps=1)
        run, begin, changes = "runs/deltatok-2", start_torchrun, TOKENIZER_ONLY
        words = ("tokenizer", data, "--config", "deltatok-2-finetune-512", "--init", "runs/deltatok-1")
    processes = begin(steps=100_000, last_every=100_000, validate_every=100_000)
    metrics = Path(run) / "metrics.csv"
    deadline = time.monotonic() + SECONDS
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert all(process.poll() is None for process in processes), ends(processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for process in processes if launcher == "slurm" else processes[1:]:
        process.send_signal(signal.SIGTERM)
    found = ends(processes)
    assert all(code != 0 for code, _, _ in found)
    step = int(last(run)["global_step"])
    assert step >= 3
    said = [err.replace(",", "").count(f"stopped after step {step}; go on with --out") for *_, err in found]
    assert sorted(said) == [0, 1], "\n".join(err for *_, err in found)
    assert len(rows(run, "train/loss")) == step
    more = {"steps": step + 2, "validate_every": 100_000, **changes}
    here(*words, "--out", run, "--resume", "auto", **more)
    here(*words, "--out", "one", **more)
    assert rows(run, "train/loss") == pytest.approx(rows("one", "train/loss"), rel=1e-2)


def tokens_at(place: str) -> None:
    """Make the tokens that the page's lines train from."""
    words = ["--tokenizer", str(TOKENIZER), "--out", place, "--device", "cpu", "--set", "workers=0"]
    assert main(["tokenize", "features/kinetics-vitb16-512", *words]) == 0
