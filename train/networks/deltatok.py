"""DeltaTok: what changed between two frames, in one token.

Takes backbone features of consecutive frames, x (previous) and y (current). An encoder reads both and writes one delta
token z; a decoder rebuilds y from z and x. At its start the decoder is almost the identity on x.

Cost: self-attention over 1 + 2P tokens in the encoder, 1 + P in the decoder; the encoder's last block computes its
first token only. Positions are computed once per call, for all layers, heads and both frames.

Shapes: B batch · T frames of a clip · H frames rebuilt · P patches = rows × columns of `grid` · D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.layers import Block, head_width, initialise
from deltactl.train.networks.rope import Grid, PatchRope, Rotation, two_frames


@dataclass(frozen=True)
class DeltaTokConfig:
    """Sizes and the five switches of the tokenizer; the defaults are the published ViT-B one."""

    width: int = 768
    """Width of the features and of the token; a multiple of 64, or of 4 where it is less than 64."""

    depth: int = 12
    """Blocks in the encoder, and as many in the decoder."""

    delta: bool = True
    """Encode what changed since x. Off: encode y alone, and decode from a learned vector in place of x."""

    qk_norm: bool = True
    """Normalise queries and keys per head."""

    gated_attention: bool = True
    """Multiply each head's output by a learned gate."""

    swiglu: bool = True
    """Gated MLPs. Off: plain ones of the same size, with GELU."""

    rope_augment: bool = True
    """Rescale the positions at random in training."""

    def __post_init__(self) -> None:
        head_width(self.width)
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, expected at least 1 block")


class DeltaTok(nn.Module):
    """The tokenizer of consecutive frames' features (DeltaTok, arXiv 2604.04913).

    Train mode changes one thing only, the random rescaling of positions; `forward` draws it once for encoder and
    decoder. Everything that follows a clip (`encode_clip`, `decode_clip`) is for a frozen tokenizer in
    eval mode and keeps no gradients.
    """

    def __init__(self, config: DeltaTokConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DeltaTokConfig()
        self.z_embed = nn.Embedding(1, config.width)
        self.xy_embed = nn.Embedding(2, config.width)
        self.encoder_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.decoder_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        # A table that is computed, not loaded: there, too, if the weights are on no device.
        with torch.device("cpu"):
            self.rope = PatchRope(config.rope_augment, head_width(config.width))
        self.apply(initialise)

    def _block(self) -> Block:
        """Return one block with this tokenizer's switches."""
        config = self.config
        return Block(config.width, config.qk_norm, config.gated_attention, config.swiglu)

    def forward(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B P D"]:
        """Return the reconstruction of `current` through its delta token: the training pass."""
        rotation = self._positions(current, grid)
        return self._decode(self._encode(previous, current, rotation), previous, rotation)

    def encode(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B D"]:
        """Return the delta token of each pair of frames."""
        return self._encode(previous, current, self._positions(current, grid))

    def decode(
        self, token: Float[Tensor, "B D"], previous: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B P D"]:
        """Return the features that `token` makes of `previous`."""
        return self._decode(token, previous, self._positions(previous, grid))

    @torch.no_grad()
    def encode_clip(
        self, features: Float[Tensor, "B T P D"], black: Float[Tensor, "P D"], grid: Grid
    ) -> Float[Tensor, "B T D"]:
        """Return one token per frame, each against the frame before it, the first against the features of black."""
        self._must_be_frozen()
        start = black.to(features.dtype).expand(len(features), 1, -1, -1)
        previous = torch.cat((start, features[:, :-1]), dim=1)
        tokens = self.encode(previous.flatten(0, 1), features.flatten(0, 1), grid)
        return tokens.unflatten(0, features.shape[:2])

    @torch.no_grad()
    def decode_clip(
        self, tokens: Float[Tensor, "B H D"], start: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B H P D"]:
        """Return the frames that `tokens` make one after the other, from `start` and then from each other."""
        self._must_be_frozen()
        rotation = self._positions(start, grid)
        frames = [start]
        for token in tokens.unbind(1):
            frames.append(self._decode(token, frames[-1], rotation))
        return torch.stack(frames[1:], dim=1)

    def _encode(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], rotation: Rotation
    ) -> Float[Tensor, "B D"]:
        """Return z, the encoder's first output, normed."""
        x_embed, y_embed = self.xy_embed.weight
        frames: tuple[Tensor, ...] = (current + y_embed,)
        if self.config.delta:
            frames = (previous + x_embed, *frames)
            rotation = two_frames(rotation)
        sequence = torch.cat((self.z_embed.weight.expand(len(current), 1, -1), *frames), dim=1)
        *blocks, last = self.encoder_blocks
        for block in blocks:
            sequence = block(sequence, rotation)
        return self.norm(last(sequence, rotation, outputs=1)[:, 0])

    def _decode(
        self, token: Float[Tensor, "B D"], previous: Float[Tensor, "B P D"], rotation: Rotation
    ) -> Float[Tensor, "B P D"]:
        """Return the decoder's patch outputs, with no final norm."""
        start = previous if self.config.delta else self.xy_embed.weight[0].expand_as(previous)
        sequence = torch.cat((token[:, None], start), dim=1)
        for block in self.decoder_blocks:
            sequence = block(sequence, rotation)
        return sequence[:, 1:]

    def _positions(self, features: Float[Tensor, "B P D"], grid: Grid) -> Rotation:
        """Return the rotation of `[z, patches]`, once features and grid are known to fit."""
        patches, width = features.shape[-2:]
        if width != self.config.width:
            raise ValueError(f"features are {width} wide, but this tokenizer was built for {self.config.width}")
        if patches != grid[0] * grid[1]:
            raise ValueError(f"features have {patches} patches, but a grid of {grid[0]} × {grid[1]} was given")
        return self.rope(grid, features.device)

    def _must_be_frozen(self) -> None:
        """Refuse to follow a clip with randomly rescaled positions."""
        if self.training and self.config.rope_augment:
            raise ValueError("the tokenizer is in train mode, which rescales positions at random; call .eval() first")


def _infer(weights: Shapes) -> DeltaTokConfig | None:
    """Return the sizes and switches that weights show: all but `delta`, taken for on, and `rope_augment`."""
    if not weights.begin_with("z_embed", "xy_embed", "encoder_blocks"):
        return None
    return DeltaTokConfig(
        width=weights.size("z_embed.weight", 1, axes=2),
        depth=weights.depth("encoder_blocks"),
        qk_norm=weights.have("q_norm"),
        gated_attention=weights.have("attn_gate"),
        swiglu=weights.have("gate_proj"),
    )


TOKENIZER = Kind(
    name="tokenizer",
    title="tokenizer (DeltaTok)",
    network=DeltaTok,
    default=DeltaTokConfig(),
    infer=_infer,
    paper=True,
    hidden=("delta", "rope_augment"),
    training_only=("rope_augment",),
)
