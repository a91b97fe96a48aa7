"""The tokenizer as a stage runs it: clips of features in, float16 tokens out, a fixed number of clips at a time.

Both ways to tokens go through here, from a feature store and straight from shards, with the same clips in the same
batches: those of one shard that can be used, in order. So both give the same tokens where the features are the same.

Shapes: B clips · T frames of a clip · P patches · D width.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from deltactl.featurize.events import BatchFeatures, JobResult, Opened
from deltactl.featurize.fill import GroupFill
from deltactl.featurize.writer import GroupWriter
from deltactl.train.deltatok import DeltaTok
from deltactl.train.rope import Grid

CPU_CLIPS, GPU_CLIPS = 2, 16
"""Clips encoded at once."""
FLOAT16_MAX = 65504.0


class Encoder:
    """A frozen tokenizer on one device."""

    def __init__(
        self, tokenizer: DeltaTok, black: Float[Tensor, "P D"], grid: Grid, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        self.grid = grid
        self.device = device
        self.dtype = dtype
        self.clips = GPU_CLIPS if device.type == "cuda" else CPU_CLIPS
        self._black = black.to(device)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the tokens' last digits depend on."""
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else f"cpu ({platform.machine()})",
            "precision": str(self.dtype).removeprefix("torch."),
            "clips_at_once": self.clips,
        }

    @torch.inference_mode()
    def encode(
        self, features: Float16[Tensor, "B T P D"]
    ) -> tuple[Float16[np.ndarray, "B T D"], Bool[np.ndarray, " B"]]:
        """Return the tokens of clips, and for each clip whether they are finite and within float16."""
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if low else contextlib.nullcontext():
            tokens = self.tokenizer.encode_clip(features.to(self.device).float(), self._black, self.grid)
        storable = tokens.abs().amax(dim=(1, 2)) <= FLOAT16_MAX  # false for NaN, too
        return tokens.half().cpu().numpy(), storable.cpu().numpy()


class TokenFill(GroupFill):
    """One group of tokens, while features arrive."""

    def __init__(self, opened: Opened, writer: GroupWriter, encoder: Encoder) -> None:
        super().__init__(opened, writer)
        self._encoder = encoder
        self._arriving: dict[int, list[np.ndarray]] = {}
        self._waiting: list[tuple[int, np.ndarray]] = []

    def close(self, grid: Sequence[int], attributes: Mapping[str, Any]) -> JobResult:
        """Encode what is left, and write the rest of the group."""
        self._encode()
        return super().close(grid, attributes)

    def add(self, row: int, features: Float16[np.ndarray, "T P D"]) -> None:
        """Take the features of a whole clip; rows come in order."""
        self._waiting.append((row, features))
        if len(self._waiting) == self._encoder.clips:
            self._encode()

    def leave_out(self, row: int) -> None:
        """Mark a clip that has no features; why, where there is a reason, is in `reasons`."""
        self._invalidate(row, None)

    def _put(self, batch: BatchFeatures) -> None:
        for number, (row, frame) in enumerate(batch.places):
            if not batch.storable[number]:
                self._invalidate(row, f"frame {frame}: its features are not finite, or beyond float16")
            frames = self._arriving.setdefault(row, [])
            frames.append(batch.features[number])
            if len(frames) == self.writer.layout.frames:
                del self._arriving[row]
                if row not in self.invalid:
                    self.add(row, np.stack(frames))

    def _encode(self) -> None:
        if not self._waiting:
            return
        rows = [row for row, _ in self._waiting]
        features = torch.from_numpy(np.stack([features for _, features in self._waiting]))
        self._waiting.clear()
        tokens, storable = self._encoder.encode(features)
        for row, clip, good in zip(rows, tokens, storable, strict=True):
            self.writer.put(row, 0, clip)
            if not good:
                self._invalidate(row, "its tokens are not finite, or beyond float16")


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of the matrix products: bfloat16 on a GPU and float32 on a CPU for `auto`."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
