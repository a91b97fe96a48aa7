"""What can go wrong around a training that is not the training's own, in one line each.

Errors of torch and Lightning that say that memory is full, that a card is taken, that processes have lost each other,
or that a checkpoint's state does not fit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import CheckpointError, ConfigError, DeltactlError, TrainingError
from deltactl.gpu_faults import causes, fault_of, is_out_of_memory
from deltactl.progress import format_bytes
from deltactl.redaction import one_line
from deltactl.train.checkpoints.resume_point import ResumePoint

STATE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What Lightning and torch raise at a checkpoint's state that does not fit, beside `load_state_dict`'s RuntimeError."""
WORTH_SAYING = 0.05
"""Share of a GPU's memory that other processes must hold to be named."""


@contextlib.contextmanager
def trainer_faults() -> Iterator[None]:
    """Map what Lightning's Trainer and CUDA raise while a trainer is made.

    Raises:
        ConfigError: the settings do not work on this machine.
    """
    try:
        yield
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        what = fault_of(error) or one_line(str(error))
        raise ConfigError(f"these trainer settings do not work here: {what}") from error


@contextlib.contextmanager
def faults_of(trainer: pl.Trainer, config: TrainingConfig, point: ResumePoint | None = None) -> Iterator[None]:
    """Map errors of torch and Lightning to one line; at any error, end the processes that the training has started.

    `point` is the checkpoint that the training goes on from.

    Raises:
        CheckpointError: the checkpoint's state does not fit this training.
        ConfigError: a device, or a setting of the trainer, does not work.
        TrainingError: memory ran out, or another process of the training is lost.
    """
    try:
        yield
    except BaseException as error:
        _end_others(trainer)
        if isinstance(error, Exception) and not isinstance(error, DeltactlError):
            found = _misfit(error, trainer, point) or _known(error, trainer, config)
            if found is not None:
                raise found from error
        raise


def _end_others(trainer: pl.Trainer) -> None:
    """End the processes that Lightning started on this machine: they would wait for this one until their time is up.

    Lightning itself ends them on Ctrl-C and SIGTERM only.
    """
    launcher = trainer.strategy.launcher
    if launcher is not None and hasattr(launcher, "procs"):
        started = list(launcher.procs)
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()  # their end is no reason for Lightning to kill this process, which is still cleaning up
        for process in started:
            process.wait()


def _misfit(error: Exception, trainer: pl.Trainer, point: ResumePoint | None) -> CheckpointError | None:
    """Return the error of a state that could not be restored; Lightning asks for training data once all of it is."""
    if point is None or trainer.train_dataloader is not None:
        return None
    if not isinstance(error, STATE_ERRORS) and not (isinstance(error, RuntimeError) and "state_dict" in str(error)):
        return None
    return CheckpointError(
        f"{point.location} holds a state that this training cannot go on from ({type(error).__name__}: "
        f"{one_line(str(error))[:200]}); is it a checkpoint of another run? --init starts from its weights"
    )


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
