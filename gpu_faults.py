"""What stands between torch and a GPU, in words: no GPU, an old driver, a card that another process has, full memory.

Takes torch's answers and errors, returns sentences that say what is here and what to do; the caller adds which setting
asked for it. Looking costs what torch's first look at the GPUs costs, and takes no memory on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import torch

from deltactl.redaction import one_line

VISIBLE = "CUDA_VISIBLE_DEVICES"


def usable_gpus() -> int:
    """Return how many GPUs torch can use; the driver may count some that it cannot."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def absence() -> str:
    """Return why torch can use no GPU here, and what to do; call it if `usable_gpus` is 0."""
    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) is built for CPUs only; install a CUDA build of it (https://pytorch.org)"
        )
    hidden = os.environ.get(VISIBLE)
    if hidden is not None and not re.search(r"(^|,)\s*(\d|GPU-|MIG-)", hidden):
        return f"{VISIBLE} is {hidden!r}, which hides every GPU; unset it, or name those to use"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = one_line(str(error)).partition(". ")[0][:200]
        return _of_driver(str(error)) or f"CUDA does not start ({reason}); run: nvidia-smi"
    return "torch finds no GPU; run: nvidia-smi"


def unusable_gpu() -> str | None:
    """Return why torch can use none of the GPUs that the driver counts here; None if it can, or counts none."""
    if torch.cuda.is_available() or torch.version.cuda is None or not torch.cuda.device_count():
        return None
    return absence()


def describe_gpus() -> str:
    """Return which GPUs torch can use, in words."""
    count = usable_gpus()
    if not count:
        return f"there is none that it can use: {absence()}"
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    shown = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    hidden = os.environ.get(VISIBLE)
    among = f", of those that {VISIBLE}={hidden} leaves" if hidden else ""
    return f"there {'is' if count == 1 else 'are'} {count} here{among}: {shown}"


def fault_of(error: BaseException) -> str | None:
    """Return what an error from CUDA says about the card or its driver, and what to do; None if it says neither."""
    for each in causes(error):
        text = str(each)
        if "busy or unavailable" in text:
            return (
                "the GPU is taken by another process, or in exclusive mode with one on it (nvidia-smi lists them); "
                f"wait for it, choose another GPU ({VISIBLE}=N), or allow sharing: nvidia-smi -c DEFAULT"
            )
        if "no kernel image is available" in text or "is not compatible with the current PyTorch" in text:
            return (
                f"this torch ({torch.__version__}) has no code for this GPU's generation; install a build that has "
                "(https://pytorch.org)"
            )
        if "ECC error" in text:
            return "the GPU's memory has failed (an ECC error that cannot be corrected); it needs a reset or repair"
        if found := _of_driver(text):
            return found
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full, on its own or behind one of torch's compiler."""
    return any(
        isinstance(each, torch.OutOfMemoryError)
        or "CUDA out of memory" in str(each)
        or "CUBLAS_STATUS_ALLOC_FAILED" in str(each)
        for each in causes(error)
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


def _of_driver(text: str) -> str | None:
    """Return what torch's message says about the driver."""
    if old := re.search(r"driver.*(?:too old|insufficient)(?: \(found version (\d+)\))?", text):
        version = int(old[1] or 0)  # 11040 is 11.4
        speaks = f", which knows CUDA {version // 1000}.{version % 1000 // 10}," if version else ""
        return (
            f"the NVIDIA driver{speaks} is too old for this torch, which is built for CUDA {torch.version.cuda}; "
            "update the driver, or install a torch for that CUDA (https://pytorch.org)"
        )
    if "no NVIDIA driver" in text or "no CUDA-capable device" in text or "No CUDA GPUs" in text:
        return "there is no NVIDIA GPU here, or no driver for it"
    return None
