"""The tokenizer as a stage runs it: clips of features in, tokens as they are stored out, so many clips at a time.

Both ways to tokens go through here, from a feature store and straight from shards, with the same clips in the same
batches: those of one shard that can be used, in order. So both give the same tokens if the features are the same.

On a GPU the network is compiled, and features that the backbone has left there stay there. A batch of tokens comes back
while the next one is encoded.

Shapes: B clips · T frames of a clip · P patches · K tokens of a frame · D width of features, d of tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from deltactl.compilation import Compiled, filled_up
from deltactl.devices import device_title, fits, full_memory, products_in, store_products
from deltactl.featurize.pipeline.events import BatchFeatures, Opened
from deltactl.featurize.pipeline.fill import GroupFill, GroupSink, JobAgainError
from deltactl.featurize.pipeline.transfers import Arriving, Copies
from deltactl.featurize.store.layout import StoreDtype
from deltactl.featurize.store.numbers import stored_numbers, torch_dtype
from deltactl.gpu_faults import is_out_of_memory
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.rope import Grid

log = logging.getLogger(__name__)

CPU_CLIPS, GPU_CLIPS = 2, 16
"""Clips encoded at once."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch, perhaps still on their way."""

    arriving: Arriving

    def wait(self) -> tuple[Float[Tensor, "B T K d"], Float32[np.ndarray, " B"]]:
        """Return the tokens of clips, of the store's type, and for each clip its largest value before rounding."""
        tokens, largest = self.arriving.wait()
        return tokens, largest.numpy()


class Encoder:
    """A frozen tokenizer on one device; `compiled` None is on a GPU only."""

    def __init__(
        self,
        tokenizer: DeltaTok,
        black: Float[Tensor, "P D"],
        grid: Grid,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool | None = None,
        stored: StoreDtype = "float16",
    ) -> None:
        """`dtype` is that of products, `stored` that of the tokens."""
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        if dtype != torch.float32:
            store_products(self.tokenizer, dtype)
        self.grid = grid
        self.device = device
        self.dtype = dtype
        self._stored = torch_dtype(stored)
        on_gpu = device.type == "cuda"
        self.clips = GPU_CLIPS if on_gpu else CPU_CLIPS
        self._black = black.to(device)
        self._copies = Copies(device)
        self._compiled: Compiled | None = None
        if on_gpu if compiled is None else compiled:
            self._compiled = Compiled(self._tokens, device.type, "the tokenizer")

    @property
    def compiled(self) -> bool:
        """Whether batches run compiled, as far as is known: the first one tells."""
        return self._compiled is not None and self._compiled.works

    @property
    def provenance(self) -> dict[str, Any]:
        """What the tokens' last digits depend on."""
        return {
            "device": device_title(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "clips_at_once": self.clips,
            **({"compiled": True} if self.compiled else {}),
        }

    def start(self, features: Float[Tensor, "B T P D"]) -> Tokens:
        """Begin to encode a batch of at most `clips` clips, wherever their features lie."""
        features = features.to(self.device)
        count = len(features)
        if self.compiled:
            features = filled_up(features, self.clips)
        with torch.inference_mode():
            tokens, largest = (self._compiled or self._tokens)(features)
            return Tokens(self._copies.to_host(tokens[:count], largest[:count]))

    def halve(self, frames: int) -> None:
        """Encode half as many clips of so many frames at once, or a quarter …, as the GPU has memory for, and say so.

        Raises:
            ConfigError: it has no memory for a single clip.
        """
        before = self.clips
        while self.clips > 1:
            self.clips //= 2
            if self._fits(frames):
                log.warning("%s has no memory to encode %d clips at once; %d fit", self.device, before, self.clips)
                return
        raise full_memory(self.device, f"one clip of {frames} frames")

    def _tokens(self, features: Tensor) -> tuple[Tensor, Tensor]:
        with products_in(self.dtype, self.device):
            tokens = self.tokenizer.encode_clip(features.float(), self._black, self.grid)
        return tokens.to(self._stored), tokens.abs().amax(dim=tuple(range(1, tokens.ndim))).float()

    def _fits(self, frames: int) -> bool:

        def try_it() -> None:
            shape = (self.clips, frames, *self._black.shape)
            self.start(torch.zeros(shape, dtype=torch.float16, device=self.device)).wait()

        return fits(self.device, try_it)


class TokenFill(GroupFill):
    """One group of tokens, while features arrive."""

    def __init__(self, opened: Opened, writer: GroupSink, encoder: Encoder) -> None:
        super().__init__(opened, writer)
        self._encoder = encoder
        self._arriving: dict[int, list[Tensor]] = {}
        self._waiting: list[tuple[int, list[Tensor]]] = []
        self._under_way: tuple[Sequence[int], Tokens] | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the tokens' last digits depend on, besides the features'."""
        return {"tokenizer": self._encoder.provenance}

    def put(self, batch: BatchFeatures) -> None:
        """Take the features of a batch, wherever they lie; encode as many whole clips as the encoder takes at once.

        Raises:
            JobAgainError: the GPU has no memory for so many; the group begins anew, with fewer at once.
        """
        storable = self.storable(batch)
        for number, (row, frame) in enumerate(batch.places):
            if not storable[number]:
                self.refuse(row, f"frame {frame}", batch.features[number], float(batch.found.largest[number]))
            frames = self._arriving.setdefault(row, [])
            frames.append(batch.features[number])
            if len(frames) == self.writer.layout.frames:
                del self._arriving[row]
                if row not in self.invalid:
                    self._waiting.append((row, frames))
                    if len(self._waiting) == self._encoder.clips:
                        self._encode()

    def flush(self) -> None:
        """Encode the clips that wait for others, and take what is under way."""
        if self._waiting:
            self._encode()
        self._write()

    def _encode(self) -> None:
        rows = [row for row, _ in self._waiting]
        features = torch.stack([torch.stack(frames) for _, frames in self._waiting])
        self._waiting.clear()
        full = False
        try:
            begun = rows, self._encoder.start(features)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = True  # the error holds the batch's memory until it is let go
        if full:
            self._encoder.halve(features.shape[1])
            raise JobAgainError
        self._write()
        self._under_way = begun

    def _write(self) -> None:
        if self._under_way is None:
            return
        rows, result = self._under_way
        self._under_way = None
        tokens, largest = result.wait()
        for row, clip, most in zip(rows, tokens, largest.tolist(), strict=True):
            if not most <= self.writer.layout.largest:  # NaN fails, too
                self.refuse(row, "its tokens", clip, most)
            self.writer.put(row, 0, stored_numbers(clip))
