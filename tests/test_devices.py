"""A setting names devices that are there; workers take turns of them."""

from __future__ import annotations

import pytest
import torch

from deltactl.devices import device_of, find_devices
from deltactl.errors import ConfigError


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
