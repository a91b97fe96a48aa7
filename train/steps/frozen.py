"""The frozen networks in front of the one that trains: pixels to features, features to tokens.

What is cached already passes through. Neither network is a part of the module that trains, so none of it is moved to
a checkpoint, wrapped for many devices, or put into train mode. They are most of the work of live training, and on a GPU
compiled like the rest. A batch passes in pieces of one size, the last one filled up: a compiled network is compiled
anew for every other size.

Shapes: B batch · T frames of a clip · P patches · K tokens of a frame · D width of features, d of tokens · H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.compilation import Compiled, filled_up
from deltactl.devices import products_in, store_products
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.compute import CPU_BATCH_FRAMES
from deltactl.featurize.store.numbers import rounded
from deltactl.train.data.batches import Batch
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.rgb_head import NormalisationValues

GPU_BATCH_FRAMES = 256
"""Frames that the networks take at a time on a GPU, 32 clips of 8; more take more memory and gain nothing."""


@dataclass
class Frozen:
    """What turns a batch into what the network reads."""

    backbone: Backbone | None = None
    """For frames; None if features or tokens are cached."""
    tokenizer: DeltaTok | None = None
    """For a world model on features or frames; None if tokens are cached, or patch features are predicted."""
    black: Float[Tensor, "P D"] | None = None
    """Features of the black frame, which a tokenizer needs for the first frame of a clip."""
    undone: NormalisationValues | None = None
    """For an RGB head: the normalisations of the backbone that made the features, which it undoes."""
    dtype: torch.dtype = torch.float32
    """Type of the networks' matrix products."""
    compiled: bool = False
    """Whether the networks are compiled when they are moved to their device."""
    frames_at_once: int | None = None
    """How many frames the networks take at a time; None is 256 on a GPU, and on a CPU as many as its caches hold: a
    batch of 64 frames at 256 px takes a third less time there in eights."""
    _largest_piece: int = field(default=1, init=False)
    _features_of: Callable[[Tensor], Tensor] = field(init=False, repr=False)
    _tokens_of: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._features_of, self._tokens_of = self._rounded_features, self._rounded_tokens

    def to(self, device: torch.device) -> None:
        """Move the networks to a device, in eval mode, and compile them there if they are to be."""
        if self.backbone is not None:
            self.backbone.to(device)
            if self.compiled:
                self._features_of = Compiled(self._rounded_features, device.type, "the frozen backbone")
        if self.tokenizer is not None:
            self.tokenizer.to(device).eval().requires_grad_(False)
            if self.dtype != torch.float32:
                store_products(self.tokenizer, self.dtype)
            if self.compiled:
                self._tokens_of = Compiled(self._rounded_tokens, device.type, "the frozen tokenizer")
        if self.black is not None:
            self.black = self.black.to(device)
        if self.undone is not None:
            self.undone = self.undone.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> Batch:
        """Return the batch as features (B, T, P, D), float32; rounded through float16 like cached ones."""
        if batch.kind == "features":
            return replace(batch, data=batch.data.float())
        if batch.kind != "frames" or self.backbone is None:
            raise ValueError(f"a batch of {batch.kind} cannot be made into features")
        height, width = batch.data.shape[-2:]
        if self.compiled or batch.data.is_cuda:
            self.backbone.merge(height, width)
        steps = batch.data.flatten(0, 1)
        size = self._at_once(steps, self.backbone.frames_per_step)
        features = self._in_pieces(self._features_of, steps, size).unflatten(0, batch.data.shape[:2])
        return replace(batch, kind="features", data=features, grid=self.backbone.grid(height, width))

    @torch.no_grad()
    def tokens(self, batch: Batch) -> Batch:
        """Return the batch as tokens (B, T, K, d), float32, rounded through float16 like cached ones."""
        if batch.kind == "tokens":
            return replace(batch, data=batch.data.float())
        height_width = batch.data.shape[-2:] if batch.kind == "frames" else None
        batch = self.features(batch)
        if self.tokenizer is None or batch.grid is None:
            raise ValueError("a batch of features cannot be made into tokens without a tokenizer")
        if self.black is None:
            assert self.backbone is not None, "black features come with a store"
            assert height_width is not None
            self.black = self.backbone.black_features(*height_width)
        black, grid = self.black, batch.grid
        clips = max(1, self._at_once(batch.data.flatten(0, 1)) // batch.data.shape[1])
        tokens = self._in_pieces(lambda part: self._tokens_of(part, black, grid), batch.data, clips)
        return replace(batch, kind="tokens", data=tokens, grid=None)

    def _rounded_features(self, frames: Tensor) -> Tensor:
        assert self.backbone is not None
        # Back in float32: inside a step's bfloat16, torch joins no pieces of float16.
        features = self.backbone(frames)
        return rounded(features if frames.ndim == 4 else features[:, 0])

    def _rounded_tokens(self, features: Tensor, black: Tensor, grid: tuple[int, int]) -> Tensor:
        assert self.tokenizer is not None
        with products_in(self.dtype, features.device):
            return rounded(self.tokenizer.encode_clip(features, black, grid))

    def _in_pieces(self, run: Callable[[Tensor], Tensor], items: Tensor, size: int) -> Tensor:
        parts = []
        for part in items.split(size):
            count = len(part)
            parts.append(run(filled_up(part, size) if self.compiled else part)[:count])
        return torch.cat(parts)

    def _at_once(self, steps: Tensor, frames_per_step: int = 1) -> int:
        """Return how many steps of so many frames a piece has: those of the largest batch so far, up to a bound."""
        if self.frames_at_once is not None:
            return max(1, self.frames_at_once // frames_per_step)
        if steps.device.type == "cpu" and not self.compiled:
            return max(1, CPU_BATCH_FRAMES // frames_per_step)
        self._largest_piece = max(self._largest_piece, min(len(steps), GPU_BATCH_FRAMES // frames_per_step))
        return self._largest_piece
