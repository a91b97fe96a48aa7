"""Where networks compute, and in which precision, from what the settings ask for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

import torch

from deltactl.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]


def find_devices(name: str) -> list[str]:
    """Return the devices that a setting stands for, such as `cuda:0` and `cuda:1`; ConfigError where they are not here.

    `auto` is all GPUs, or the CPU where there is none; `cuda` is all GPUs, `cuda:N` one of them, `cpu` the CPU.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if name == "auto":
        return gpus or ["cpu"]
    if name == "cpu":
        return ["cpu"]
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError(f"--device is {name}; auto, cpu, cuda or cuda:N was expected")
    if not gpus:
        raise ConfigError(f"--device is {name}, but there is no CUDA GPU here; use auto or cpu")
    if name != "cuda" and name not in gpus:
        raise ConfigError(f"--device is {name}, but the GPUs here are {', '.join(gpus)}")
    return gpus if name == "cuda" else [name]


def device_of(name: str, slot: int = 0) -> torch.device:
    """Return the device of worker number `slot`, which takes its turn of `find_devices`."""
    devices = find_devices(name)
    return torch.device(devices[slot % len(devices)])


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of the networks' matrix products."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if bfloat16 else torch.float32


@contextlib.contextmanager
def ieee_convolutions(device: torch.device) -> Iterator[None]:
    """Keep the convolutions of heads in float32 on a GPU, where TF32 with its 10 bits of mantissa is the default."""
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch makes it at run time
    before = convolution.fp32_precision
    if device.type == "cuda":
        convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        if device.type == "cuda":
            convolution.fp32_precision = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full, on its own or behind one of torch's compiler."""
    return any(
        isinstance(each, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(each) for each in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it, as Python chains them and as torch's compiler wraps them."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "inner_exception", None)]
