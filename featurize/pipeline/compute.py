"""Runs the backbone over a stream of cropped clips: the same frames in the same batches each time, on any machine.

Takes batches of uint8 frames, returns features of the store's type (float16, or bfloat16) and what was seen of each
frame: the largest value before rounding, which says whether they can be stored, and each channel's mean and variance
after it. Batches are cut from the stream of a job's frames in order, whatever clip they belong to, and never
reach across jobs. On a GPU the next batch is under way while the one before it comes back; normalisation, backbone and
the look at what can be stored are one compiled graph there. Features that become tokens have no mean and variance.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from deltactl.compilation import Compiled, filled_up
from deltactl.configs.frame_size import FrameSize
from deltactl.devices import DTYPES, device_title, fits, full_memory, use_device
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.events import Found
from deltactl.featurize.pipeline.transfers import Arriving, Copies
from deltactl.featurize.store.layout import StoreDtype
from deltactl.featurize.store.numbers import torch_dtype
from deltactl.gpu_faults import is_out_of_memory

CPU_BATCH_FRAMES = 8
MAX_BATCH_FRAMES = 128
"""Beyond this a GPU gains nothing and the pipeline's buffers grow."""
BYTES_PER_TOKEN_AND_DIM = 64
"""Rough memory of a frame's activations in inference, to guess the first batch size to try."""


@dataclass(frozen=True)
class Result:
    """Features of a batch, perhaps still on their way."""

    features: Float[Tensor, "frame patch dim"]
    """In main memory, or on the GPU where they are used there."""
    seen: tuple[Tensor, ...]
    """In main memory: the largest value of each frame (frame); perhaps mean and variance (frame, dim)."""
    arrived: Arriving | None

    def wait(self) -> tuple[Float[Tensor, "frame patch dim"], Found]:
        """Return the features and what was seen of each frame."""
        if self.arrived is not None:
            self.arrived.wait()
        return self.features, Found(*(each.numpy() for each in self.seen))


class Computer:
    """The backbone on one device, with the size of its batches."""

    def __init__(
        self,
        backbone: Backbone,
        size: FrameSize,
        batch_size: int | None,
        compiled: bool | None,
        dtype: StoreDtype = "float16",
    ) -> None:
        """`dtype` is that of the features."""
        self.backbone = backbone
        self.dtype = torch_dtype(dtype)
        self.size = size
        self.device = backbone.device
        self.grid = backbone.grid(*size.pair)
        self._copies = Copies(self.device)
        self._compiled: Compiled | None = None
        on_gpu = self.device.type == "cuda"
        if on_gpu if compiled is None else compiled:
            self._compiled = Compiled(self._features, self.device.type, "the backbone")
        if on_gpu or self.compiled:
            backbone.merge(*size.pair)
        step = backbone.frames_per_step
        if batch_size is None:
            batch_size = self._largest_batch() if on_gpu else max(step, CPU_BATCH_FRAMES // step * step)
        elif batch_size % step:
            raise ConfigError(
                f"--batch-size is {batch_size} frames, but {backbone.name} makes one step from {step} frames; "
                f"take a multiple of {step}"
            )
        self.batch_size = batch_size
        """In frames; whole steps."""

    @classmethod
    def load(
        cls,
        name_or_folder: str,
        size: FrameSize,
        *,
        device: str,
        precision: Literal["auto", "float32", "bfloat16"],
        batch_size: int | None,
        compiled: bool | None,
        dtype: StoreDtype = "float16",
    ) -> Computer:
        """Load the backbone; errors as `Backbone.load`.

        ConfigError for a device that is not here or cannot be used, or a wrong `size`.
        """
        place = use_device(device)
        try:
            backbone = Backbone.load(name_or_folder, place, DTYPES.get(precision))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise full_memory(place, f"the weights of {name_or_folder}") from error
            raise
        return cls(backbone, size, batch_size, compiled, dtype)

    @property
    def compiled(self) -> bool:
        """Whether batches run compiled, as far as is known: the first one tells."""
        return self._compiled is not None and self._compiled.works

    @property
    def provenance(self) -> dict[str, Any]:
        """What the features' last digits depend on."""
        return {
            "device": device_title(self.device),
            "precision": str(self.backbone.dtype).removeprefix("torch."),
            "batch_size": self.batch_size,
            "compiled": self.compiled,
        }

    @property
    def frames_per_step(self) -> int:
        """Frames that become one step of features."""
        return self.backbone.frames_per_step

    def start(self, frames: UInt8[Tensor, "frame 3 height width"]) -> Result:
        """Begin to compute the features of a batch that lies on the device, and to bring them to main memory.

        Its frames are whole steps; what comes out is of the steps.
        """
        features, largest = self._compute(frames)
        with torch.inference_mode():
            variance, mean = torch.var_mean(features.float(), dim=1, correction=0)
        arriving = self._copies.to_host(features, largest, mean, variance)
        return Result(arriving.tensors[0], arriving.tensors[1:], arriving)

    def start_here(self, frames: UInt8[Tensor, "frame 3 height width"]) -> Result:
        """Begin likewise, for features that are used where they are: only the largest values come to main memory."""
        features, largest = self._compute(frames)
        arriving = self._copies.to_host(largest)
        return Result(features, arriving.tensors, arriving)

    def halve(self) -> bool:
        """Take batches of half the frames, or of a quarter …, that the GPU's memory has room for; False if none are."""
        step = self.frames_per_step
        while self.batch_size > step:
            self.batch_size = max(1, self.batch_size // step // 2) * step
            if self._fits():
                return True
        return False

    def frames_per_second(self) -> float:
        """Return the measured rate of the backbone alone, over two batches after one to warm up."""
        frames = torch.zeros(self.batch_size, 3, *self.size.pair, dtype=torch.uint8, device=self.device)
        self.start(frames).wait()
        started = time.perf_counter()
        for _ in range(2):
            self.start(frames).wait()
        return 2 * self.batch_size / (time.perf_counter() - started)

    def _compute(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of a batch, and each step's largest value before rounding."""
        count = len(frames) // self.frames_per_step
        if self.compiled:
            frames = filled_up(frames, self.batch_size)
        with torch.inference_mode():
            features, largest = (self._compiled or self._features)(frames)
            return features[:count], largest[:count]

    def _features(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        step = self.frames_per_step
        features = self.backbone(frames) if step == 1 else self.backbone(frames.unflatten(0, (-1, step))).flatten(0, 1)
        return features.to(self.dtype), features.abs().amax(dim=(1, 2)).float()

    def _largest_batch(self) -> int:
        """Return the largest power of two (of steps) that fits, tried with the real network."""
        rows, columns = self.grid
        free, _ = torch.cuda.mem_get_info(self.device)
        guess = int(0.8 * free / (rows * columns * self.backbone.dim * BYTES_PER_TOKEN_AND_DIM))
        self.batch_size = step = self.frames_per_step
        while self.batch_size * 2 <= min(guess, MAX_BATCH_FRAMES):
            self.batch_size *= 2
        if self.batch_size > step and not self._fits():
            self.halve()
        return self.batch_size

    def _fits(self) -> bool:
        """Whether a batch can be computed in the memory there is."""

        def try_it() -> None:
            frames = torch.zeros(self.batch_size, 3, *self.size.pair, dtype=torch.uint8, device=self.device)
            self.start(frames).wait()

        return fits(self.device, try_it)
