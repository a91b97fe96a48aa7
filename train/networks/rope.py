"""Rotary positions: where a patch lies in its frame, and when a frame lies in its clip.

A `Rotation` holds the cosines and sines of a sequence of tokens. It is made once per forward pass and shared by all
layers and heads; `rotate` applies it to queries or keys. All of it is float32, whatever autocast says: the fastest
pairs turn a hundred times a second, which bf16 cannot tell apart.

Shapes: B batch · F frames · P patches · K tokens of a frame · L tokens in a sequence · N heads · A axes (time, or time,
column and row) · R pairs per axis · H width of a head. Its first 2·A·R entries turn, the rest stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

HEAD_WIDTH = 64
"""Width of an attention head in every network here, but for tokenizers that are narrower: the rotation's layout is
written for it."""

TURNING_PAIRS = 30
"""Pairs of a head's entries that turn in the world models: 60 of 64 entries, split evenly over the axes."""

LARGEST_RESCALE = 2.0
"""The tokenizer's augmentation multiplies coordinates by a log-uniform draw from [1/2, 2]."""

Grid = tuple[int, int]
"""Rows and columns of a frame's patches."""


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of a sequence's tokens, the same for every head."""

    cos: Float[Tensor, "*tokens 1 A R"]
    sin: Float[Tensor, "*tokens 1 A R"]

    def __getitem__(self, index: slice | tuple[slice, ...]) -> Rotation:
        """Return the rotation of some of the tokens (or items of the batch)."""
        return Rotation(self.cos[index], self.sin[index])

    def back(self) -> Rotation:
        """Return the rotation that undoes this one."""
        return Rotation(self.cos, -self.sin)


def rotate(x: Float[Tensor, "*tokens N H"], rotation: Rotation) -> Float[Tensor, "*tokens N H"]:
    """Turn the leading entries of each head, in float32; the result has the type of `x`.

    Each axis owns one run of entries, the two halves of which form its pairs:
    (a, b) → (a cos − b sin, a sin + b cos).
    """
    axes, pairs = rotation.cos.shape[-2:]
    turning = 2 * axes * pairs
    a, b = x[..., :turning].float().unflatten(-1, (axes, 2, pairs)).unbind(-2)
    turned = torch.stack((a * rotation.cos - b * rotation.sin, a * rotation.sin + b * rotation.cos), dim=-2)
    turned = turned.flatten(-3).to(x.dtype)
    return turned if turning == x.shape[-1] else torch.cat((turned, x[..., turning:]), dim=-1)


class PatchRope(nn.Module):
    """DINOv3's own rotary embedding of patch centres, with `unrotated` tokens in front.

    A patch's centre is (y, x) in [−1, 1]; pair i of an axis turns by 2π · coordinate · 100^(−i/16), 16 pairs with the
    row and 16 with the column; a narrower head has a quarter of its width for each. In train mode with `augment`, all
    coordinates are multiplied by one log-uniform draw from [1/2, 2] per call (from torch's global generator); in eval
    mode, and without `augment`, nothing is random.
    """

    frequencies: Float[Tensor, " pairs"]

    def __init__(self, augment: bool = True, head_width: int = HEAD_WIDTH, unrotated: int = 1) -> None:
        super().__init__()
        self.augment = augment
        self.unrotated = unrotated
        # Operation by operation as transformers' DINOv3ViTRopePositionEmbedding, whose import takes longer than torch's
        # own: the results are equal to the last bit, and trained tokenizers depend on it.
        frequencies = 1 / 100.0 ** torch.arange(0, 1, 4 / head_width, dtype=torch.float32)[: head_width // 4]
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, grid: Grid, device: torch.device) -> Rotation:
        """Return the rotation of `[z, patches]`, K + P tokens, of a frame of `grid` (rows, columns) patches."""
        y, x = (torch.arange(0.5, count, dtype=torch.float32, device=device) / count for count in grid)
        centres = 2.0 * torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1) - 1.0  # (P, 2)
        if self.training and self.augment:
            reach = math.log(LARGEST_RESCALE)
            centres = centres * torch.empty(1, dtype=torch.float32, device=device).uniform_(-reach, reach).exp()
        angles = (2 * math.pi * centres[:, :, None] * self.frequencies.to(device)).flatten(1)  # (P, 32)
        cos, sin = angles.cos(), angles.sin()
        cos = torch.cat((torch.ones_like(cos[:1]).expand(self.unrotated, -1), cos))
        sin = torch.cat((torch.zeros_like(sin[:1]).expand(self.unrotated, -1), sin))
        return Rotation(cos[:, None, None], sin[:, None, None])


def two_frames(rotation: Rotation, unrotated: int = 1) -> Rotation:
    """Return the rotation of `[z, patches, patches]` from that of `[z, patches]`: both frames lie in the same place."""
    again = rotation[unrotated:]
    return Rotation(torch.cat((rotation.cos, again.cos)), torch.cat((rotation.sin, again.sin)))


def rotation_of(coordinates: Float[Tensor, "*tokens A"]) -> Rotation:
    """Return the world models' rotation of tokens at `coordinates` on A axes (1 or 3).

    Pair i of an axis turns by 2π · coordinate · f_i, f from 100 down to 0.01 in equal ratios. Coordinates are seconds
    on the time axis and [−1, 1] on the axes of the frame.
    """
    pairs = TURNING_PAIRS // coordinates.shape[-1]
    frequencies = 10 ** -torch.linspace(-2, 2, pairs, dtype=torch.float32, device=coordinates.device)
    angles = 2 * math.pi * coordinates.float()[..., None, :, None] * frequencies
    return Rotation(angles.cos(), angles.sin())


def time_rotation(times: Float[Tensor, "B F"]) -> Rotation:
    """Return the rotation of tokens of frames at `times`, in seconds since the clip's first frame.

    It has one entry for each frame, which all its tokens share.
    """
    return rotation_of(times[..., None, None])


def space_time_rotation(times: Float[Tensor, "B F"], grid: Grid) -> Rotation:
    """Return the rotation of every patch of frames at `times`: axes time, x (column), y (row)."""
    rows, columns = grid
    y = torch.linspace(-1, 1, rows, dtype=torch.float32, device=times.device)
    x = torch.linspace(-1, 1, columns, dtype=torch.float32, device=times.device)
    y, x = torch.meshgrid(y, x, indexing="ij")
    place = torch.stack((x.flatten(), y.flatten()), dim=-1)  # (P, 2)
    frames = times.float()[..., None, None].expand(*times.shape, rows * columns, 1)
    return rotation_of(torch.cat((frames, place.expand(*times.shape, *place.shape)), dim=-1))
