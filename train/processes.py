"""Which devices and processes a training has, and whether they are here.

Lightning would find out later, in its own words, or not at all: two processes without `trainer.num_nodes` would each
train alone and write to the same run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from deltactl.configs.training import TrainerConfig
from deltactl.errors import ConfigError
from deltactl.gpu_faults import absence, describe_gpus, unusable_gpu, usable_gpus


def is_first_process() -> bool:
    """Whether this process is the one that writes; the others were started by it, or beside it on other machines."""
    # Before Lightning has started its processes, those of other machines know their machine's number only.
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0 and int(os.environ.get("NODE_RANK") or 0) == 0


def uses_gpu(trainer: TrainerConfig) -> bool:
    """Whether the settings train on GPUs, here."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def devices_per_node(trainer: TrainerConfig) -> int:
    """Return how many devices of each node train; each has one process."""
    if isinstance(trainer.devices, tuple):
        return len(trainer.devices)
    if isinstance(trainer.devices, int):
        return trainer.devices
    return torch.cuda.device_count() if uses_gpu(trainer) else 1


def check_devices(trainer: TrainerConfig) -> None:
    """Check that the devices that the settings ask for are here.

    Raises:
        ConfigError: they are not, or not as many.
    """
    if trainer.strategy != "auto" and trainer.strategy not in StrategyRegistry.available_strategies():
        raise ConfigError(f"trainer.strategy is {trainer.strategy!r}; expected auto, ddp or another of Lightning's")
    asked = trainer.accelerator in ("gpu", "cuda")
    here = 0 if trainer.accelerator == "cpu" else usable_gpus()
    if asked and not here:
        raise ConfigError(
            f"trainer.accelerator is {trainer.accelerator}, but {absence()}; or train on the CPU: "
            "--set trainer.accelerator=cpu"
        )
    devices = trainer.devices
    if not here:
        if isinstance(devices, tuple):
            raise ConfigError(
                f"trainer.devices is {list(devices)}, a list of GPUs, but "
                f"{'trainer.accelerator is cpu' if trainer.accelerator == 'cpu' else absence()}; "
                "on a CPU it is a number of processes: --set trainer.devices=1"
            )
        if trainer.accelerator == "auto" and (reason := unusable_gpu()):
            # Left to itself it would train on the CPU, a hundred times as slowly.
            raise ConfigError(
                f"trainer.accelerator is auto, and there is a GPU, but {reason}; or train on the CPU: "
                "--set trainer.accelerator=cpu"
            )
        return
    if isinstance(devices, int) and devices > here:
        raise ConfigError(
            f"trainer.devices is {devices}, but {describe_gpus()}; set trainer.devices to {here} at most, or to auto "
            "for all of them (effective_batch stays as it is)"
        )
    if isinstance(devices, tuple):
        if absent := [number for number in devices if not 0 <= number < here]:
            raise ConfigError(
                f"trainer.devices is {list(devices)}, but of GPU {', '.join(map(str, absent))} there is none: "
                f"{describe_gpus()}"
            )
        if len(set(devices)) < len(devices):
            raise ConfigError(f"trainer.devices is {list(devices)}, which names a GPU twice; name each once")


@dataclass(frozen=True)
class Launch:
    """The processes that a launcher has started."""

    launcher: str
    processes: int
    on_this_node: int | None
    """None where it does not say."""

    @classmethod
    def here(cls) -> Launch | None:
        """Return who started this process among others; None where Lightning starts what it needs itself."""
        if TorchElasticEnvironment.detect():
            return cls("torchrun", int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        if "SLURM_NTASKS" in os.environ and SLURMEnvironment.job_name() not in ("bash", "interactive"):
            each = os.environ.get("SLURM_NTASKS_PER_NODE", "")
            return cls("srun", int(os.environ["SLURM_NTASKS"]), int(each) if each.isdigit() else None)
        return None


def check_processes(trainer: TrainerConfig, devices: int) -> None:
    """Check that torchrun or Slurm started as many processes on each of `num_nodes` as there are `devices`.

    Raises:
        ConfigError: they started others.
    """
    launch = Launch.here()
    if launch is None:
        return
    if launch.launcher == "srun" and launch.processes > 1 and launch.on_this_node is None:
        raise ConfigError(
            f"srun started {launch.processes} tasks without saying how many a node has; give sbatch or srun "
            "--ntasks-per-node, as many as trainer.devices"
        )
    each = launch.on_this_node or launch.processes
    if launch.processes == devices * trainer.num_nodes and each == devices:
        return
    nodes = launch.processes // each
    raise ConfigError(
        f"trainer.devices {trainer.devices} and trainer.num_nodes {trainer.num_nodes} make {devices} processes on each "
        f"of {trainer.num_nodes} nodes, but {launch.launcher} started {launch.processes}, {each} on this node; one "
        f"process is one device: set trainer.devices={each} and trainer.num_nodes={nodes}, or start as many as that"
    )
