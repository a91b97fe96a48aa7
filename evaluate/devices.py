"""Where networks compute, and in which precision, from what the settings ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from deltactl.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]


def device_of(name: str, slot: int = 0) -> torch.device:
    """Return the device of worker number `slot`; ConfigError where a GPU is asked for and there is none.

    `name` is `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`; workers share the GPUs of auto and cuda.
    """
    gpus = torch.cuda.device_count()
    if name.startswith("cuda") and not gpus:
        raise ConfigError(f"--device is {name}, but there is no CUDA GPU here; use auto or cpu")
    if name == "auto":
        return torch.device("cuda", slot % gpus) if gpus else torch.device("cpu")
    return torch.device("cuda", slot % gpus) if name == "cuda" else torch.device(name)


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
