"""DeltaTok: what changed between two frames, in a few tokens; the published one takes a single token.

Takes backbone features of consecutive frames, x (previous) and y (current). An encoder reads both and writes K delta
tokens z; a decoder rebuilds y from z and x. At its start the decoder is almost the identity on x.

The encoder's sequence is `[z_embed, x + xy_embed[0], y + xy_embed[1]]` with K learned rows `z_embed`, and
`z = norm(its first K outputs)`; the decoder's is `[z, x]`. Neither z_embed nor z is rotated. Where tokens are narrower
or wider than the features, `to_token` (Linear, D → d) follows the norm, and `from_token` (d → D) comes before the
decoder; where d = D there is neither. With K = 1 and d = D this is the published network, and its weights load.

Cost: self-attention over K + 2P tokens in the encoder, K + P in the decoder; the encoder's last block computes its
first K tokens only. Positions are computed once per call, for all layers, heads and both frames.

Shapes: B batch · T frames of a clip · H frames rebuilt · P patches = rows × columns of `grid` · D width of features ·
K tokens of a frame · d width of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ConfigError
from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.layers import Block, head_width, initialise
from deltactl.train.networks.network import Network
from deltactl.train.networks.rope import Grid, PatchRope, Rotation, two_frames


@dataclass(frozen=True)
class DeltaTokConfig:
    """Sizes and the five switches of the tokenizer; the defaults are the published ViT-B one."""

    width: int = 768
    """Width of the features; a multiple of 64, or of 4 where it is less than 64."""

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

    tokens_per_frame: int = 1
    """Delta tokens of a pair of frames, K."""

    token_dim: int | None = None
    """Width of a token, d, where it is not that of the features; never equal to it, so that equal networks are equal.
    """

    def __post_init__(self) -> None:
        head_width(self.width)
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, expected at least 1 block")
        if self.tokens_per_frame < 1:
            raise ValueError(f"tokens_per_frame is {self.tokens_per_frame}, expected at least 1 token")
        if self.token_dim is not None and self.token_dim < 1:
            raise ValueError(f"token_dim is {self.token_dim}, expected a width of at least 1")
        if self.token_dim == self.width:
            object.__setattr__(self, "token_dim", None)

    @property
    def token_width(self) -> int:
        """Width of a token, d."""
        return self.width if self.token_dim is None else self.token_dim


def check_fewer_tokens(tokens_per_frame: int, size: FrameSize, grid: Grid) -> None:
    """Check that a frame has no more tokens than patches; frames of this size have such a grid of them.

    Raises:
        ConfigError: it has more.
    """
    if tokens_per_frame > (patches := math.prod(grid)):
        raise ConfigError(
            f"{tokens_per_frame:,} tokens a frame are more than its {patches:,} patches ({grid[0]} × {grid[1]}, at "
            f"{size} px), which they are to replace; set --tokens-per-frame to a number far below {patches:,}"
        )


class DeltaTok(Network):
    """The tokenizer of consecutive frames' features (DeltaTok, arXiv 2604.04913).

    Train mode changes one thing only, the random rescaling of positions; `forward` draws it once for encoder and
    decoder. Everything that follows a clip (`encode_clip`, `decode_clip`) is for a frozen tokenizer in
    eval mode and keeps no gradients.
    """

    def __init__(self, config: DeltaTokConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DeltaTokConfig()
        self.z_embed = nn.Embedding(config.tokens_per_frame, config.width)
        self.xy_embed = nn.Embedding(2, config.width)
        self.encoder_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.decoder_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        narrowed = config.token_dim
        self.to_token = None if narrowed is None else nn.Linear(config.width, narrowed)
        self.from_token = None if narrowed is None else nn.Linear(narrowed, config.width)
        # A table that is computed, not loaded: there, too, if the weights are on no device.
        with torch.device("cpu"):
            self.rope = PatchRope(config.rope_augment, head_width(config.width), config.tokens_per_frame)
        self.apply(initialise)

    def _block(self) -> Block:
        """Return one block with this tokenizer's switches."""
        config = self.config
        return Block(config.width, config.qk_norm, config.gated_attention, config.swiglu)

    def forward(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B P D"]:
        """Return the reconstruction of `current` through its delta tokens: the training pass."""
        rotation = self._positions(current, grid)
        return self._decode(self._encode(previous, current, rotation), previous, rotation)

    def encode(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B K d"]:
        """Return the delta tokens of each pair of frames."""
        return self._encode(previous, current, self._positions(current, grid))

    def decode(
        self, tokens: Float[Tensor, "B K d"], previous: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B P D"]:
        """Return the features that `tokens` make of `previous`."""
        self._must_be_tokens(tokens)
        return self._decode(tokens, previous, self._positions(previous, grid))

    @torch.no_grad()
    def encode_clip(
        self, features: Float[Tensor, "B T P D"], black: Float[Tensor, "P D"], grid: Grid
    ) -> Float[Tensor, "B T K d"]:
        """Return each frame's tokens, against the frame before it, those of the first against the features of black."""
        self._must_be_frozen()
        start = black.to(features.dtype).expand(len(features), 1, -1, -1)
        previous = torch.cat((start, features[:, :-1]), dim=1)
        tokens = self.encode(previous.flatten(0, 1), features.flatten(0, 1), grid)
        return tokens.unflatten(0, features.shape[:2])

    @torch.no_grad()
    def decode_clip(
        self, tokens: Float[Tensor, "B H K d"], start: Float[Tensor, "B P D"], grid: Grid
    ) -> Float[Tensor, "B H P D"]:
        """Return the frames that `tokens` make one after the other, from `start` and then from each other."""
        self._must_be_frozen()
        self._must_be_tokens(tokens)
        rotation = self._positions(start, grid)
        frames = [start]
        for of_frame in tokens.unbind(1):
            frames.append(self._decode(of_frame, frames[-1], rotation))
        return torch.stack(frames[1:], dim=1)

    def _encode(
        self, previous: Float[Tensor, "B P D"], current: Float[Tensor, "B P D"], rotation: Rotation
    ) -> Float[Tensor, "B K d"]:
        """Return z, the encoder's first K outputs, normed and brought to their width."""
        x_embed, y_embed = self.xy_embed.weight
        count = self.config.tokens_per_frame
        frames: tuple[Tensor, ...] = (current + y_embed,)
        if self.config.delta:
            frames = (previous + x_embed, *frames)
            rotation = two_frames(rotation, count)
        sequence = torch.cat((self.z_embed.weight.expand(len(current), -1, -1), *frames), dim=1)
        *blocks, last = self.encoder_blocks
        for block in blocks:
            sequence = block(sequence, rotation)
        tokens = self.norm(last(sequence, rotation, outputs=count))
        return tokens if self.to_token is None else self.to_token(tokens)

    def _decode(
        self, tokens: Float[Tensor, "B K d"], previous: Float[Tensor, "B P D"], rotation: Rotation
    ) -> Float[Tensor, "B P D"]:
        """Return the decoder's patch outputs, with no final norm."""
        start = previous if self.config.delta else self.xy_embed.weight[0].expand_as(previous)
        widened = tokens if self.from_token is None else self.from_token(tokens)
        sequence = torch.cat((widened, start), dim=1)
        for block in self.decoder_blocks:
            sequence = block(sequence, rotation)
        return sequence[:, self.config.tokens_per_frame :]

    def _positions(self, features: Float[Tensor, "B P D"], grid: Grid) -> Rotation:
        """Return the rotation of `[z, patches]`, once features and grid are known to fit."""
        patches, width = features.shape[-2:]
        if width != self.config.width:
            raise ValueError(f"features are {width} wide, but this tokenizer was built for {self.config.width}")
        if patches != grid[0] * grid[1]:
            raise ValueError(f"features have {patches} patches, but a grid of {grid[0]} × {grid[1]} was given")
        return self.rope(grid, features.device)

    def _must_be_tokens(self, tokens: Float[Tensor, "B *frames K d"]) -> None:
        """Refuse tokens of another number or width: a frame too many would be taken for a patch."""
        wanted, found = (self.config.tokens_per_frame, self.config.token_width), tuple(tokens.shape[-2:])
        if found != wanted:
            raise ValueError(f"a frame has {found[0]} tokens of width {found[1]}, expected {wanted[0]} of {wanted[1]}")

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
        tokens_per_frame=weights.size("z_embed.weight", 0, axes=2),
        token_dim=weights.size("to_token.weight", 0, axes=2) if weights.have("to_token") else None,
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
    added=("tokens_per_frame", "token_dim"),
)
