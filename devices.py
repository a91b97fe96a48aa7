"""Where networks compute, and in which precision, from what the settings ask for."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deltactl.configs.values import Precision
from deltactl.errors import ConfigError
from deltactl.gpu_faults import fault_of, is_out_of_memory
from deltactl.redaction import one_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def find_devices(name: str) -> list[str]:
    """Return the devices that a setting stands for, such as `cuda:0` and `cuda:1`.

    `auto` is all GPUs, or the CPU if there is none; `cuda` is all GPUs, `cuda:N` one of them, `cpu` the CPU.
    No memory of a GPU is taken; `use_device` does that.

    Raises:
        ConfigError: they are not here, or this build of torch cannot drive the GPUs that are here. (With `auto`, too:
            a CPU would take a hundred times as long.)
    """
    if name == "cpu":
        return ["cpu"]
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if gpus and torch.version.cuda is not None:
        try:
            torch.cuda.init()
        except RuntimeError as error:
            raise ConfigError(f"the GPUs here cannot be used: {_said(error, 'the GPU')}") from error
    if name == "auto":
        return gpus or ["cpu"]
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


def device_title(device: torch.device) -> str:
    """Return what kind of device this is, as provenance has it: a GPU's name, or `cpu` with its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def use_device(name: str) -> torch.device:
    """Return the first device that a setting stands for, after a first use of it.

    Raises:
        ConfigError: it cannot be used; the message says why.
    """
    device = torch.device(find_devices(name)[0])
    if device.type == "cuda":
        try:
            torch.zeros(1, device=device)
        except RuntimeError as error:
            raise ConfigError(f"{device} cannot be used: {_said(error, str(device))}") from error
    return device


def _said(error: RuntimeError, device: str) -> str:
    """Return what CUDA's first error means, and what to do."""
    if is_out_of_memory(error):
        return "its memory is full (nvidia-smi shows of what); end other processes or choose another GPU"
    return fault_of(error) or (
        f"{one_line(str(error))[:200]}; deltactl doctor says more, and --device cpu computes without {device}"
    )


def full_memory(device: torch.device, what: str) -> ConfigError:
    """Return the error for a GPU that has no memory even for `what`, the least there is."""
    return ConfigError(
        f"the memory of {device} is full even for {what}; end other processes on it (nvidia-smi shows them), or choose "
        "another --device"
    )


def free_memory(device: torch.device) -> None:
    """Give what torch holds of a GPU's memory without using it back, before something smaller is tried."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fits(device: torch.device, run: Callable[[], None]) -> bool:
    """Whether a GPU's memory has room for what `run` does; other errors of it are raised."""
    free_memory(device)
    try:
        run()
    except RuntimeError as error:  # as all of CUDA's and the compiler's are
        if not is_out_of_memory(error):
            raise
        return False
    return True


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of the networks' matrix products; for `auto` bfloat16 on a GPU and float32 on a CPU."""
    return DTYPES.get(precision, torch.bfloat16 if device.type == "cuda" else torch.float32)


def products_in(dtype: torch.dtype | None, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context whose matrix products are of this type; None leaves what is around as it is."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def store_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Store weights and biases of all linear layers in `dtype`, in place; what is not a product keeps its own.

    Autocast would convert them at every call; the results are the same, bit for bit.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)


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
