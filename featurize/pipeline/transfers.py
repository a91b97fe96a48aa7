"""Copies between a GPU and pinned memory beside what it computes: each direction on a stream of its own.

A copy waits for the work that was queued before it, and nothing queued after it waits for the copy, until its result is
asked for. On a CPU nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arriving:
    """Tensors on their way; they must not be read before `wait`."""

    tensors: tuple[Tensor, ...]
    event: Any = None
    """A CUDA event; None where nothing was copied."""

    def wait(self) -> tuple[Tensor, ...]:
        """Return the tensors in main memory, once they are there; the thread sleeps meanwhile."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors

    def here(self) -> tuple[Tensor, ...]:
        """Return the tensors on their GPU: what is queued there from now on waits for them, this thread does not."""
        if self.event is not None:
            compute = torch.cuda.current_stream(self.tensors[0].device)
            compute.wait_event(self.event)
            for tensor in self.tensors:
                tensor.record_stream(compute)
        return self.tensors


class Copies:
    """The copies of one direction, from or to `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None

    def to_host(self, *tensors: Tensor) -> Arriving:
        """Begin to copy results of the current stream to pinned memory; on a CPU they are there already."""
        if self.device.type == "cpu":
            return Arriving(tensors)
        copies = self._own_stream()
        copies.wait_stream(torch.cuda.current_stream(self.device))
        arrived = tuple(torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors)
        with torch.cuda.stream(copies):
            for host, tensor in zip(arrived, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            # Blocking: whoever waits sleeps, where it would keep a core busy.
            event = torch.cuda.Event(blocking=True)
            event.record(copies)
        for tensor in tensors:
            tensor.record_stream(copies)
        return Arriving(arrived, event)

    def to_device(self, host: Tensor) -> Arriving:
        """Begin to copy a pinned tensor to the device; on a CPU it is there already."""
        if self.device.type == "cpu":
            return Arriving((host,))
        copies = self._own_stream()
        with torch.cuda.stream(copies):
            tensor = host.to(self.device, non_blocking=True)
            event = torch.cuda.Event(blocking=True)
            event.record(copies)
        return Arriving((tensor,), event)

    def _own_stream(self) -> Any:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        return self._stream
