"""Runs the backbone over a stream of cropped clips: the same frames in the same batches each time, on any machine.

In come clips as uint8 frames, out come float16 features and, for each frame, whether they can be stored (finite and
within float16). Batches are cut from the stream of a job's frames in order, whatever clip they belong to, and never
reach across jobs. On a GPU the next batch is under way while the one before it comes back.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float16, UInt8
from torch import Tensor

from deltactl.devices import find_devices
from deltactl.featurize.backbone import Backbone

FLOAT16_MAX = 65504.0
CPU_BATCH_FRAMES = 8
MAX_BATCH_FRAMES = 128
"""Beyond this a GPU gains nothing and the pipeline's buffers grow."""
BYTES_PER_TOKEN_AND_DIM = 64
"""Rough memory of a frame's activations in inference, to guess the first batch size to try."""


@dataclass(frozen=True)
class Result:
    """Features of a batch, perhaps still on their way from the GPU."""

    features: Float16[Tensor, "frame patch dim"]
    storable: Bool[Tensor, " frame"]
    arrived: Any
    """A CUDA event; None on a CPU."""

    def wait(self) -> tuple[Float16[np.ndarray, "frame patch dim"], Bool[np.ndarray, " frame"]]:
        """Return the features and, for each frame, whether they are finite and within float16."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.features.numpy(), self.storable.numpy()


class Computer:
    """The backbone on one device, with the size of its batches."""

    def __init__(self, backbone: Backbone, size: int, batch_size: int | None, compiled: bool | None) -> None:
        self.backbone = backbone
        self.size = size
        self.device = backbone.device
        self.grid = backbone.grid(size, size)
        self._copies: Any = None
        on_gpu = self.device.type == "cuda"
        self.compiled = on_gpu if compiled is None else compiled
        if self.compiled:
            backbone.model.compile()
        if batch_size is None:
            batch_size = self._largest_batch() if on_gpu else CPU_BATCH_FRAMES
        self.batch_size = batch_size

    @classmethod
    def load(
        cls,
        name_or_folder: str,
        size: int,
        *,
        device: str,
        precision: Literal["auto", "float32", "bfloat16"],
        batch_size: int | None,
        compiled: bool | None,
    ) -> Computer:
        """Load the backbone; errors as `Backbone.load`, ConfigError for a device that is not here or a wrong `size`."""
        dtype = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        return cls(Backbone.load(name_or_folder, find_devices(device)[0], dtype), size, batch_size, compiled)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the features' last digits depend on."""
        on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if on_gpu else f"cpu ({platform.machine()})"
        return {
            "device": name,
            "precision": str(self.backbone.dtype).removeprefix("torch."),
            "batch_size": self.batch_size,
            "compiled": self.compiled,
        }

    def start(self, frames: UInt8[Tensor, "frame 3 size size"]) -> Result:
        """Begin to compute the features of a batch that lies on the device."""
        count = len(frames)
        if self.compiled and count < self.batch_size:
            # One shape, compiled once.
            padding = frames.new_zeros((self.batch_size - count, *frames.shape[1:]))
            frames = torch.cat([frames, padding])
        with torch.inference_mode():
            features = self.backbone(frames)[:count]
            # A NaN fails the comparison as well.
            storable = features.abs().amax(dim=(1, 2)) <= FLOAT16_MAX
            halves = features.to(torch.float16)
            if self.device.type == "cpu":
                return Result(halves, storable, None)
            return self._to_host(halves, storable)

    def _to_host(self, features: Tensor, storable: Tensor) -> Result:
        """Begin to copy results to pinned memory, on a stream of its own so that the next batch does not wait."""
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        flags = torch.empty(storable.shape, dtype=storable.dtype, pin_memory=True)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            host.copy_(features, non_blocking=True)
            flags.copy_(storable, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._copies)
        for tensor in (features, storable):
            tensor.record_stream(self._copies)
        return Result(host, flags, arrived)

    def frames_per_second(self) -> float:
        """Return the measured rate of the backbone alone, over two batches after one to warm up."""
        frames = torch.zeros(self.batch_size, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        self.start(frames).wait()
        started = time.perf_counter()
        for _ in range(2):
            self.start(frames).wait()
        return 2 * self.batch_size / (time.perf_counter() - started)

    def _largest_batch(self) -> int:
        """Return the largest power of two that fits, tried with the real network."""
        rows, columns = self.grid
        free, _ = torch.cuda.mem_get_info(self.device)
        guess = int(0.8 * free / (rows * columns * self.backbone.dim * BYTES_PER_TOKEN_AND_DIM))
        size = 1
        while size * 2 <= min(guess, MAX_BATCH_FRAMES):
            size *= 2
        while size > 1:
            try:
                frames = torch.zeros(size, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
                self.batch_size = size
                self.start(frames).wait()
                return size
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                size //= 2
        return 1
