"""Whether torch.compile works on this machine, and going on without it where it does not.

Inductor needs tools from outside torch: Triton and a C compiler for GPUs, a C++ compiler for CPUs, Python's headers for
both. `compile_fault` says what is missing before anything is computed; a failure that it did not foresee shows at the
first call, and there `Compiled` goes on with the plain function. Either way one warning says what to install. Nothing
is slower for the check: it looks for files, and asks a GPU for its age.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltactl.redaction import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

OLDEST_CARD = (7, 0)
"""The compute capability that Triton starts at (Volta)."""
DETERMINISTIC: dict[str, Any] = {"deterministic": True}
"""Inductor's option to choose kernels by rule, not by timing them: another process then sums in the same order."""


def compile_fault(device_type: str) -> str | None:
    """Return why torch.compile cannot work for `cuda` or `cpu` on this machine and what to do; None if it can."""
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed; install it, or torch's own CUDA build (https://pytorch.org)"
        if (card := _card_age()) is not None and card < OLDEST_CARD:
            found, oldest = (".".join(map(str, each)) for each in (card, OLDEST_CARD))
            return f"the GPU has compute capability {found}, and Triton needs {oldest}; use a newer card"
        if _program("CC", "gcc", "clang") is None:
            return "there is no C compiler (CC, gcc or clang); install gcc"
    elif _program("CXX", "g++") is None:
        return "there is no C++ compiler (CXX or g++); install g++"
    include = sysconfig.get_paths(scheme=_scheme())["include"]
    if not Path(include, "Python.h").is_file():
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return f"{include} has no Python.h; install Python's headers ({python}-dev or {python}-devel)"
    return None


def compile_module(
    module: nn.Module, device_type: str, name: str, *, deterministic: bool = False, graphs: bool = False
) -> bool:
    """Compile a module in place, for its calls to come, and return True; warn and return False if that cannot work.

    `name` is what the warning calls it, such as "the backbone"; with `graphs` its calls are replayed as CUDA graphs.
    """
    if fault := compile_fault(device_type):
        warn_plain(name, fault)
        return False
    if graphs:
        module.compile(mode="reduce-overhead")
    else:
        module.compile(options=DETERMINISTIC if deterministic else None)
    return True


def filled_up(items: Tensor, size: int) -> Tensor:
    """Return a batch with zeros behind it, up to `size` items: one shape is compiled once, and another one anew.

    To be called outside inference mode, for whose tensors it would be compiled again.
    """
    import torch

    missing = size - len(items)
    return torch.cat([items, items.new_zeros((missing, *items.shape[1:]))]) if missing > 0 else items


class Compiled:
    """A function of tensors, compiled for a device if that works, the plain function if it does not.

    Its kernels are chosen by rule (`DETERMINISTIC`), so equal inputs give equal results in another process.
    """

    def __init__(self, function: Callable[..., Any], device_type: str, name: str) -> None:
        import torch

        self.name = name
        self._plain = function
        self._compiled: Callable[..., Any] | None = None
        if fault := compile_fault(device_type):
            warn_plain(name, fault)
        else:
            # One shape is compiled for, and another one anew: batches are filled up to their size.
            self._compiled = torch.compile(function, dynamic=False, options=DETERMINISTIC)

    @property
    def works(self) -> bool:
        """Whether calls are compiled, as far as is known: the first call tells."""
        return self._compiled is not None

    def __call__(self, *inputs: Any) -> Any:
        """Return the function's result; errors of its own, out of memory among them, are raised as they are."""
        if self._compiled is None:
            return self._plain(*inputs)
        try:
            return self._compiled(*inputs)
        except Exception as error:
            if not is_compiler_failure(error):
                raise
            warn_plain(self.name, f"torch.compile failed ({one_line(str(error))[:200]})")
            log.debug("compiling %s", self.name, exc_info=True)
            self._compiled = None
        return self._plain(*inputs)


def is_compiler_failure(error: BaseException) -> bool:
    """Whether an error of a compiled call comes from compiling it: not from the device's memory, nor the function."""
    from torch._dynamo.exc import TorchDynamoException

    from deltactl.gpu_faults import causes, is_out_of_memory

    if is_out_of_memory(error):
        return False
    return any(
        isinstance(each, TorchDynamoException | subprocess.CalledProcessError)
        or type(each).__module__.partition(".")[0] == "triton"
        or "C compiler" in str(each)
        for each in causes(error)
    )


@functools.cache  # once for each process and reason
def warn_plain(name: str, reason: str) -> None:
    """Tell that something runs uncompiled, and why."""
    log.warning("%s runs without torch.compile, slower: %s", name, reason)


def _program(variable: str, *names: str) -> str | None:
    """Return the compiler that a variable names, or the first one that is there."""
    named = shlex.split(os.environ.get(variable, ""))
    return next((found for name in (named[:1] or names) if (found := shutil.which(name))), None)


def _scheme() -> str:
    """Return the layout of folders that Python's headers are looked for in, as Triton does."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme


def _card_age() -> tuple[int, int] | None:
    """Return the compute capability of this process's GPU; None if it sees none."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None
