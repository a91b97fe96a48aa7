"""The frozen networks in front of the one that trains: pixels to features, features to tokens.

What is cached already passes through. Neither network is a part of the module that trains, so none of it is moved to
a checkpoint, wrapped for many devices, or put into train mode.

Shapes: B batch · T frames of a clip · P patches · D width · H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.featurize.backbone import Backbone
from deltactl.featurize.compute import CPU_BATCH_FRAMES
from deltactl.train.batches import Batch
from deltactl.train.deltatok import DeltaTok


@dataclass
class Frozen:
    """What turns a batch into what the network reads."""

    backbone: Backbone | None = None
    """For frames; None where features or tokens are cached."""
    tokenizer: DeltaTok | None = None
    """For a world model on features or frames; None where tokens are cached, or patch features are predicted."""
    black: Float[Tensor, "P D"] | None = None
    """Features of the black frame, which a tokenizer needs for the first frame of a clip."""
    frames_at_once: int | None = None
    """How many frames the networks take at a time; None is all of a batch on a GPU, and on a CPU as many as its caches
    hold: a batch of 64 frames at 256 px takes a third less time there in eights."""

    def to(self, device: torch.device) -> None:
        """Move the networks to a device, in eval mode."""
        if self.backbone is not None:
            self.backbone.to(device)
        if self.tokenizer is not None:
            self.tokenizer.to(device).eval().requires_grad_(False)
        if self.black is not None:
            self.black = self.black.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> Batch:
        """Return the batch as features (B, T, P, D), float32; rounded through float16 like cached ones."""
        if batch.kind == "features":
            return replace(batch, data=batch.data.float())
        if batch.kind != "frames" or self.backbone is None:
            raise ValueError(f"a batch of {batch.kind} cannot be made into features")
        backbone = self.backbone
        frames = batch.data.flatten(0, 1)
        parts = [backbone(part) for part in frames.split(self._at_once(frames))]
        features = torch.cat(parts).unflatten(0, batch.data.shape[:2])
        grid = self.backbone.grid(batch.data.shape[3], batch.data.shape[4])
        return replace(batch, kind="features", data=features.half().float(), grid=grid)

    @torch.no_grad()
    def tokens(self, batch: Batch) -> Batch:
        """Return the batch as tokens (B, T, D), float32, rounded through float16 like cached ones."""
        if batch.kind == "tokens":
            return replace(batch, data=batch.data.float())
        height_width = batch.data.shape[3:] if batch.kind == "frames" else None
        batch = self.features(batch)
        if self.tokenizer is None or batch.grid is None:
            raise ValueError("a batch of features cannot be made into tokens without a tokenizer")
        if self.black is None:
            assert self.backbone is not None, "black features come with a store"
            assert height_width is not None
            self.black = self.backbone.black_features(*height_width)
        clips = max(1, self._at_once(batch.data.flatten(0, 1)) // batch.data.shape[1])
        tokenizer, black, grid = self.tokenizer, self.black, batch.grid
        tokens = torch.cat([tokenizer.encode_clip(part, black, grid) for part in batch.data.split(clips)])
        return replace(batch, kind="tokens", data=tokens.half().float(), grid=None)

    def _at_once(self, frames: Tensor) -> int:
        return self.frames_at_once or (CPU_BATCH_FRAMES if frames.device.type == "cpu" else len(frames))
