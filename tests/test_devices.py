"""A setting names devices that are there; workers take turns of them."""

from __future__ import annotations

import pytest
import torch

from deltactl.devices import device_of, find_devices, use_device
from deltactl.errors import ConfigError
from deltactl.gpu_faults import is_out_of_memory


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "devices"),
    [("auto", ["cuda:0", "cuda:1"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]), ("cpu", ["cpu"])],
)
def test_all_gpus_unless_one_is_named(two_gpus: None, name: str, devices: list[str]) -> None:
    assert find_devices(name) == devices
    assert [str(device_of(name, slot)) for slot in range(3)] == [devices[slot % len(devices)] for slot in range(3)]


def test_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_devices("auto") == ["cpu"]
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError, match=f"--device is {name}, but there is no CUDA GPU here; use auto or cpu"):
            find_devices(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:2", "--device is cuda:2, but the GPUs here are cuda:0, cuda:1"),
        ("gpu", "--device is gpu; auto, cpu, cuda or cuda:N was expected"),
        ("cuda:", "--device is cuda:; auto"),
    ],
)
def test_what_is_not_here_or_no_device_at_all(two_gpus: None, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_devices(name)


# --- GPUs that are there and cannot be used ---


@pytest.fixture
def cuda_build(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch for CUDA, whose driver answers."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_a_driver_too_old_for_this_torch_is_told_not_passed_over(
    cuda_build: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(ConfigError) as raised:
        find_devices(name)
    assert str(raised.value) == (
        "the GPUs here cannot be used: the NVIDIA driver, which knows CUDA 12.4, is too old for this torch, which is "
        "built for CUDA 13.0; update the driver, or install a torch for that CUDA (https://pytorch.org)"
    )
    assert find_devices("cpu") == ["cpu"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be asynchronously",
            "cuda:1 cannot be used: the GPU is taken by another process",
        ),
        ("CUDA out of memory. Tried to allocate 2.00 MiB", "cuda:1 cannot be used: its memory is full"),
        (
            "CUDA error: no kernel image is available for execution on the device",
            "has no code for this GPU's generation",
        ),
        ("CUDA error: unknown\nerror", "CUDA error: unknown error; deltactl doctor says more, and --device cpu"),
    ],
)
def test_the_first_use_of_a_gpu_says_in_one_line_why_it_fails(
    cuda_build: None, monkeypatch: pytest.MonkeyPatch, message: str, words: str
) -> None:
    def fail(*_: object, device: torch.device) -> None:
        assert str(device) == "cuda:1"
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(ConfigError) as raised:
        use_device("cuda:1")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cpu_is_used_without_asking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "zeros")
    assert use_device("cpu") == torch.device("cpu")


def test_full_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as error:
            raise RuntimeError("while compiling") from error
    except RuntimeError as error:
        assert is_out_of_memory(error)
