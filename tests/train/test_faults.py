"""Devices that are not here, processes that do not add up and full memory end a training with one line that says why.

GPUs are pretended: torch's answers are replaced by those of machines with other GPUs and drivers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import SIZE, make_features, make_shards, tokenizer_config, world_config

from deltactl.cli import main
from deltactl.configs.training import TrainerConfig
from deltactl.errors import ConfigError, TrainingError
from deltactl.train.faults import smaller_settings
from deltactl.train.processes import check_devices, check_processes
from deltactl.train.steps.modules import TokenizerModule

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
BUSY = (
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)
SMALL = {
    "size": SIZE,
    "batch_size": 8,
    "effective_batch": 8,
    "network.width": 128,
    "network.depth": 1,
    "validation_fraction": 0.2,
    "steps": 4,
    "last_every": 1,
    "wandb": "disabled",
}
Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend a CUDA build of torch with so many GPUs, or one whose first call fails with a message."""

    def install(gpus: int = 0, fault: str | None = None) -> None:
        def init() -> None:
            if fault is not None:
                raise RuntimeError(fault)

        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0 and fault is None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)  # what the driver says, usable or not
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("faults")
    return make_features(make_shards(folder / "shards"), folder / "features")


def refused(**settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        check_devices(TrainerConfig(**settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def run(store: str, out: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> tuple[int, list[str]]:
    """Train a small tokenizer by the program; return its exit code and the lines on stderr that are no log."""
    values = {**SMALL, **dict(each.split("=", 1) for each in settings)}
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    code = main(["train", "tokenizer", store, "--out", str(out), *words])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if not line.startswith(("INFO", "WARNING"))]


# --- devices ---------------------------------------------------------------------------------------------------------


def test_more_gpus_than_are_here_are_refused_with_what_is_here(pretend: Pretend) -> None:
    pretend(gpus=1)
    for accelerator in ("auto", "gpu", "cuda"):
        assert refused(accelerator=accelerator, devices=2) == (
            "trainer.devices is 2, but there is 1 here: 0 (NVIDIA H200); set trainer.devices to 1 at most, or to auto "
            "for all of them (effective_batch stays as it is)"
        )
    assert refused(devices=(0, 3)) == (
        "trainer.devices is [0, 3], but of GPU 3 there is none: there is 1 here: 0 (NVIDIA H200)"
    )
    assert "names a GPU twice" in refused(devices=(0, 0))
    assert "there is none" in refused(devices=(-1,))
    for fine in ({"devices": 1}, {"devices": (0,)}, {}, {"accelerator": "cpu", "devices": 4}):
        check_devices(TrainerConfig(**fine))


def test_what_the_environment_hides_is_named(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(gpus=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert "there is 1 here, of those that CUDA_VISIBLE_DEVICES=5 leaves: 0 (NVIDIA H200)" in refused(devices=2)
    pretend(gpus=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is '', which hides every GPU" in refused(accelerator="gpu")


def test_a_gpu_that_torch_cannot_use_is_refused_by_its_reason(pretend: Pretend) -> None:
    pretend(gpus=1, fault=TOO_OLD)
    assert refused(accelerator="gpu") == (
        "trainer.accelerator is gpu, but the NVIDIA driver, which knows CUDA 11.4, is too old for this torch, which "
        "is built for CUDA 13.0; update the driver, or install a torch for that CUDA (https://pytorch.org); or train "
        "on the CPU: --set trainer.accelerator=cpu"
    )
    pretend(gpus=0, fault="Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")
    assert "there is no NVIDIA GPU here, or no driver for it" in refused(accelerator="cuda")
    assert "trainer.devices is [3], a list of GPUs, but there is no NVIDIA GPU here" in refused(devices=(3,))
    assert "but trainer.accelerator is cpu" in refused(devices=(3,), accelerator="cpu")


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert f"this torch ({torch.__version__}) is built for CPUs only" in refused(accelerator="gpu")


def test_auto_does_not_train_on_the_cpu_because_a_driver_is_too_old(pretend: Pretend) -> None:
    pretend(gpus=1, fault=TOO_OLD)
    assert "trainer.accelerator is auto, and there is a GPU, but the NVIDIA driver, which knows CUDA 11.4" in refused()
    check_devices(TrainerConfig(accelerator="cpu"))
    pretend(gpus=0, fault="Found no NVIDIA driver on your system.")
    check_devices(TrainerConfig())


def test_the_program_says_so_before_it_makes_a_run(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pretend: Pretend
) -> None:
    pretend(gpus=1)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.devices=2")
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: trainer.devices is 2, but there is 1 here")
    assert not (tmp_path / "run").exists()


def test_settings_that_only_lightning_knows_are_errors_of_settings_too(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = run(store, tmp_path / "run", capsys, "trainer.strategy=ddq")
    assert (code, lines) == (1, ["error: trainer.strategy is 'ddq'; expected auto, ddp or another of Lightning's"])
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise MisconfigurationException("No such thing.\nTry another.")

    monkeypatch.setattr("lightning.pytorch.Trainer.__init__", refuse)
    code, lines = run(store, tmp_path / "run", capsys)
    assert (code, lines) == (1, ["error: these trainer settings do not work here: No such thing. Try another."])


# --- processes -------------------------------------------------------------------------------------------------------


def test_processes_of_torchrun_must_be_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    check_processes(TrainerConfig(devices=8, num_nodes=2), 8)
    with pytest.raises(ConfigError, match="torchrun started 16, 8 on this node.*devices=8 and trainer.num_nodes=2"):
        check_processes(TrainerConfig(devices=8), 8)
    with pytest.raises(ConfigError, match="make 16 processes on each of 1 nodes"):
        check_processes(TrainerConfig(devices=16), 16)


def test_tasks_of_slurm_must_be_those_of_the_settings(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without trainer.num_nodes each task would train alone, and all would write to one run."""
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "train.sh")
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert (code, len(lines)) == (1, 1)
    assert "give sbatch or srun --ntasks-per-node" in lines[0]
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert (code, len(lines)) == (1, 1)
    assert "srun started 2, 1 on this node" in lines[0]
    assert "set trainer.devices=1 and trainer.num_nodes=2" in lines[0]
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # a shell on a node: Lightning starts what it needs
    check_processes(TrainerConfig(devices=2), 2)


# --- memory, and cards that are taken --------------------------------------------------------------------------------


def fail_at(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TokenizerModule.loss

    def loss(self: TokenizerModule, batch: Any) -> torch.Tensor:
        if self.global_step == step:
            raise error
        return whole(self, batch)

    monkeypatch.setattr(TokenizerModule, "loss", loss)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["GPU", "CPU"])
def test_full_memory_names_the_settings_that_help(
    error: Exception, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(2, error, monkeypatch)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert code == 1
    (line,) = lines
    assert "has run out of memory at step 2. What needs less: batch_size 4 (now 8; effective_batch stays 8" in line
    assert "precision bf16-mixed (now 32-true)" in line
    assert "a smaller size (now 64)" in line
    assert line.endswith("Then go on with --resume auto")
    monkeypatch.undo()
    assert run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu", "resume=auto", "batch_size=4") == (0, [])


def test_the_settings_that_help_are_those_of_the_network(tmp_path: Path) -> None:
    world = world_config("tokens", tmp_path, batch_size=6, effective_batch=24, queries=16, compile=False)
    said = "; ".join(smaller_settings(world, "bf16-mixed"))
    assert "batch_size 3 (now 6; effective_batch stays 24, over more batches)" in said
    assert "fewer queries (now 16)" in said
    assert "compile true (now false)" in said
    assert "precision" not in said
    assert "tokens made beforehand" not in said
    live = world_config("shards", tmp_path, batch_size=1, tokenizer="x", network={"kind": "dinoworld"})
    said = "; ".join(smaller_settings(live, "32-true"))
    assert said.startswith("precision bf16-mixed (now 32-true)")
    assert "queries" not in said
    assert "tokens made beforehand" in said
    fixed = tokenizer_config("features", tmp_path, batch_size=9, accumulate=2)
    assert "batch_size 3 (now 9; with accumulate at 6, now 2" in smaller_settings(fixed, "bf16-mixed")[0]


def test_a_card_that_another_process_has_taken_is_named(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(0, RuntimeError(BUSY), monkeypatch)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("error: trainer.devices is auto, and the GPU is taken by another process")
    fail_at(0, RuntimeError("CUDA error: no kernel image is available for execution on the device"), monkeypatch)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert (code, len(lines)) == (1, 1)
    assert "has no code for this GPU's generation" in lines[0]


def test_errors_of_the_training_itself_stay_what_they_are(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(1, RuntimeError("the size of tensor a must match"), monkeypatch)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu")
    assert code == 1
    assert "RuntimeError: the size of tensor a must match" in lines[0]
    fail_at(1, TrainingError("the loss is not finite"), monkeypatch)
    code, lines = run(store, tmp_path / "run", capsys, "trainer.accelerator=cpu", "resume=auto")
    assert lines == ["error: the loss is not finite"]


SCRIPT = """
import os, sys, time
from pathlib import Path

import torch
from small_training import tokenizer_config

from deltactl.errors import TrainingError
from deltactl.train.steps.modules import TokenizerModule
from deltactl.train.run import train

whole = TokenizerModule.loss

def loss(self, batch):
    if self.global_step == 2:
        second = Path(sys.argv[2], "second")
        if self.global_rank == 1:
            second.write_text(str(os.getpid()))
            time.sleep(600)  # as in a collective operation of NCCL
        while not second.exists():
            time.sleep(0.1)
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return whole(self, batch)

if __name__ == "__main__":
    TokenizerModule.loss = loss
    config = tokenizer_config(
        sys.argv[1], Path(sys.argv[2], "run"), batch_size=4, trainer={"accelerator": "cpu", "devices": 2}
    )
    try:
        train(config, "run")
    except TrainingError as error:
        print(error)
        time.sleep(7)  # Lightning looks after its processes every 5 s
        sys.exit(3)
"""


@pytest.mark.slow
def test_a_failed_process_ends_those_that_it_started(store: str, tmp_path: Path) -> None:
    """They would hold their GPUs for hours, waiting for this one."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(script), store, str(tmp_path)]
    said = tmp_path / "said"
    with said.open("w") as file:  # not a pipe, whose end would be that of the last process
        code = subprocess.run(words, env=environment, stdout=file, stderr=file, timeout=200, check=False).returncode
    assert code == 3, said.read_text()
    assert "has run out of memory at step 2" in said.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "second").read_text()), signal.SIGKILL)
