"""What can go wrong around a training that is not the training's own: devices, processes, memory, in one line each.

Before it: whether the devices that the settings ask for are here, and whether the processes that torchrun or Slurm
started are those that the settings count on. Lightning would find out later, in its own words, or not at all: two
processes without `trainer.num_nodes` would each train alone and write to the same run. During it: errors of torch that
say that memory is full, that a card is taken, or that processes have lost each other.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import StrategyRegistry

from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainerConfig, TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import ConfigError, DeltactlError, TrainingError
from deltactl.gpu_faults import absence, causes, describe_gpus, fault_of, is_out_of_memory, unusable_gpu, usable_gpus
from deltactl.progress import format_bytes
from deltactl.redaction import one_line

WORTH_SAYING = 0.05
"""Share of a GPU's memory that other processes must hold to be named."""


# --- before ----------------------------------------------------------------------------------------------------------


def check_devices(trainer: TrainerConfig) -> None:
    """Raise ConfigError where the devices that the settings ask for are not here, or not as many."""
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
    """Raise ConfigError where torchrun or Slurm started other processes than `devices` on each of `num_nodes`."""
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


@contextlib.contextmanager
def trainer_faults() -> Iterator[None]:
    """Turn what Lightning's Trainer and CUDA say of settings while it is made into a ConfigError."""
    try:
        yield
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        what = fault_of(error) or one_line(str(error))
        raise ConfigError(f"these trainer settings do not work here: {what}") from error


# --- during ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def faults_of(trainer: pl.Trainer, config: TrainingConfig) -> Iterator[None]:
    """Turn errors of a training that are not its own into one line; end the processes that it has started with it."""
    try:
        yield
    except BaseException as error:
        _end_others(trainer)
        if isinstance(error, Exception) and not isinstance(error, DeltactlError):
            found = _known(error, trainer, config)
            if found is not None:
                raise found from error
        raise


def _end_others(trainer: pl.Trainer) -> None:
    """End the processes that Lightning started on this machine: they would wait for this one until their time is up."""
    launcher = trainer.strategy.launcher
    if launcher is not None and hasattr(launcher, "procs"):
        started = list(launcher.procs)
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()  # their end is no reason for Lightning to kill this process, which is still cleaning up
        for process in started:
            process.wait()


def _known(error: Exception, trainer: pl.Trainer, config: TrainingConfig) -> DeltactlError | None:
    text = str(error)
    if is_out_of_memory(error):
        return TrainingError(_out_of_memory(trainer, config))
    if "can't allocate memory" in text:  # torch's allocator on a CPU
        return TrainingError(_out_of_memory(trainer, config, "this machine"))
    if found := fault_of(error):
        return ConfigError(f"trainer.devices is {_written(config.trainer.devices)}, and {found}")
    if isinstance(error, MisconfigurationException):
        return ConfigError(f"these trainer settings do not work here: {one_line(text)}")
    if trainer.world_size > 1 and any(_is_of_peers(each) for each in causes(error)):
        return TrainingError(
            f"this process has lost the others of the training, {trainer.world_size} in all, or never found them "
            f"({one_line(text)[:200]}); one that failed says why in its own output. Where none did: every node runs "
            f"the same command, and reaches {os.environ.get('MASTER_ADDR', 'the first node')} at port "
            f"{os.environ.get('MASTER_PORT', 'MASTER_PORT')}? Go on with --resume auto"
        )
    return None


def _is_of_peers(error: BaseException) -> bool:
    """Whether an error is one of the exchange between processes."""
    return isinstance(error, torch.distributed.DistError) or any(
        part in str(error) for part in ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
    )


def _out_of_memory(trainer: pl.Trainer, config: TrainingConfig, place: str | None = None) -> str:
    """Return where memory ran out, and which settings need less of it, with their present values."""
    said = f"{place or _card(trainer)} has run out of memory at step {trainer.global_step:,}"
    if wanting := "; ".join(smaller_settings(config, str(trainer.precision), trainer.world_size)):
        said += f". What needs less: {wanting}"
    return f"{said}. Then go on with --resume auto"


def smaller_settings(config: TrainingConfig, precision: str, processes: int = 1) -> list[str]:
    """Return the settings by which a training needs less memory, the surest first, each with its present value.

    `precision` is the one that `auto` stands for, `processes` how many devices train.
    """
    found = []
    batch, _ = config.batches(processes)
    if batch > 1:
        half = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
        kept = (
            f"effective_batch stays {config.effective_batch:,}, over more batches"
            if config.accumulate == "auto"
            else f"with accumulate at {config.accumulate * batch // half}, now {config.accumulate}, a step "
            "stays as large"
        )
        found.append(f"batch_size {half} (now {batch}; {kept})")
    if precision == "32-true":
        found.append("precision bf16-mixed (now 32-true)")
    if config.compile is False:
        found.append("compile true (now false)")
    if isinstance(config, WorldConfig) and config.network.kind == "deltaworld":
        found.append(f"fewer queries (now {config.queries})")
    if isinstance(config, TokenizerConfig | WorldConfig):
        found.append(f"a smaller size (now {config.size}), with data of that size")
        found.append(
            f"a smaller network.depth or network.width (now {config.network.depth} and {config.network.width})"
        )
    if isinstance(config, WorldConfig) and config.tokenizer is not None:
        found.append("tokens made beforehand (deltactl tokenize), in place of the frozen networks in the loop")
    return found


def _card(trainer: pl.Trainer) -> str:
    """Return the device with its memory, and what others hold of it."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return str(device)
    try:
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError:  # the card is past answering
        return str(device)
    held = f", {format_bytes(others)} of it held by other processes" if others > WORTH_SAYING * total else ""
    return f"{device} ({format_bytes(total)}{held})"


def _written(devices: int | str | tuple[int, ...]) -> str:
    return str(list(devices) if isinstance(devices, tuple) else devices)
