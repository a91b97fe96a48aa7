"""The RGB head: pictures from features, for looking at predictions only.

Takes a frame's feature grid and the backbone's normalisations to undo; returns RGB, nominally in [0, 1]. A plain vision
transformer decodes the patches; parameter names are those of the published weights. The published head has 28 blocks
of width 1152, 415 million parameters; `deltactl train rgb` trains smaller ones.

Shapes: B batch · D feature width · h, w rows and columns of patches · W decoder width · N heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.network import Network

NORM_EPS = 1e-12
INITIAL_STD = 0.02
"""Standard deviation of the positions and the class token that training starts from, as is usual for such networks."""


@runtime_checkable
class Normalisations(Protocol):
    """What the head undoes: the backbone's final norm, and its normalisation of pixels. A `Backbone` has all four.

    Where a backbone has no norm that is known, it says weights of 1 and a bias of 0: nothing is undone.
    """

    @property
    def norm_weight(self) -> Float[Tensor, " D"]:
        """Weight of the backbone's final LayerNorm."""

    @property
    def norm_bias(self) -> Float[Tensor, " D"]:
        """Bias of the backbone's final LayerNorm."""

    @property
    def image_mean(self) -> Float[Tensor, " 3"]:
        """Mean that was taken off RGB in [0, 1]."""

    @property
    def image_std(self) -> Float[Tensor, " 3"]:
        """Standard deviation that RGB was divided by."""


@dataclass(frozen=True)
class NormalisationValues:
    """The normalisations of a backbone, without its network."""

    norm_weight: Float[Tensor, " D"]
    norm_bias: Float[Tensor, " D"]
    image_mean: Float[Tensor, " 3"]
    image_std: Float[Tensor, " 3"]

    @classmethod
    def of(cls, backbone: Normalisations) -> NormalisationValues:
        """Return copies of a backbone's."""
        values = (getattr(backbone, each.name) for each in fields(cls))
        return cls(*(value.detach().float().clone() for value in values))

    def to(self, device: torch.device) -> NormalisationValues:
        """Return them on a device."""
        return NormalisationValues(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class RGBHeadConfig:
    """Sizes of the RGB head; the defaults are the published ones."""

    dim: int = 768
    """Width of the features."""

    width: int = 1152
    """Width of the decoder."""

    depth: int = 28
    """Blocks of the decoder."""

    heads: int = 16
    """Attention heads; the weights do not tell."""

    mlp_width: int = 4096
    """Inner width of the MLPs."""

    grid: int = 16
    """Rows and columns of the positions that were learned; other grids resize them."""

    patch_size: int = 16
    """Pixels along one side of a patch."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, expected a divisor of the width {self.width}")


class RGBHead(Network):
    """A transformer decoder from features to pixels."""

    def __init__(self, config: RGBHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RGBHeadConfig()
        width = config.width
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        self.decoder_embed = nn.Linear(config.dim, width)
        self.decoder_layers = nn.ModuleList(_Layer(width, config.heads, config.mlp_width) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(width, config.patch_size**2 * 3)
        for learned in (self.trainable_cls_token, self.decoder_pos_embed):
            nn.init.trunc_normal_(learned, std=INITIAL_STD)

    def forward(
        self, features: Float[Tensor, "B D h w"], backbone: Normalisations
    ) -> Float[Tensor, "B 3 {self.config.patch_size}*h {self.config.patch_size}*w"]:
        """Return RGB, in float32; clamp to [0, 1] to draw it."""
        rows, columns = features.shape[-2:]
        tokens = (features.flatten(2).mT - backbone.norm_bias) / backbone.norm_weight
        tokens = self.decoder_embed(tokens)
        tokens = torch.cat((self.trainable_cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens), dim=1)
        tokens = tokens + self._positions(rows, columns)
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        patches = self.decoder_pred(self.decoder_norm(tokens[:, 1:])).float()
        # (B, h · w, side · side · 3) → (B, h, w, side, side, 3) → (B, 3, h · side, w · side)
        side = self.config.patch_size
        pixels = patches.unflatten(-1, (side, side, 3)).unflatten(1, (rows, columns))
        pixels = pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return pixels * backbone.image_std[:, None, None] + backbone.image_mean[:, None, None]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 1+{rows}*{columns} W"]:
        """Return the position embedding, its patch part resized if the grid is not the learned one."""
        learned = self.config.grid
        if (rows, columns) == (learned, learned):
            return self.decoder_pos_embed
        cls, patches = self.decoder_pos_embed[:, :1], self.decoder_pos_embed[:, 1:]
        patches = patches.mT.unflatten(-1, (learned, learned))
        patches = F.interpolate(patches.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat((cls, patches.flatten(2).mT.to(cls.dtype)), dim=1)


class _Attention(nn.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


class _Dense(nn.Module):
    """A linear layer under the name `dense`, where the published weights have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "B L inputs"]) -> Float[Tensor, "B L outputs"]:
        return self.dense(x)


class _SelfAttention(nn.Module):
    """Attention and its output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.output = _Dense(width, width)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        return self.output(self.attention(x))


class _Layer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention = _SelfAttention(width, heads)
        self.layernorm_before = nn.LayerNorm(width, eps=NORM_EPS)
        self.layernorm_after = nn.LayerNorm(width, eps=NORM_EPS)
        self.intermediate = _Dense(width, mlp_width)
        self.output = _Dense(mlp_width, width)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))


def _infer(weights: Shapes) -> RGBHeadConfig | None:
    """Return the sizes that weights show: all but `heads`, sixteen as published, or as many as are 16 wide or more."""
    if not weights.begin_with("decoder_layers", "decoder_embed", "decoder_pred"):
        return None
    width = weights.size("decoder_embed.weight", 0, axes=2)
    return RGBHeadConfig(
        dim=weights.size("decoder_embed.weight", 1, axes=2),
        width=width,
        depth=weights.depth("decoder_layers"),
        heads=next(heads for heads in range(min(16, max(1, width // 16)), 0, -1) if width % heads == 0),
        mlp_width=weights.size("decoder_layers.0.intermediate.dense.weight", 0, axes=2),
        patch_size=math.isqrt(weights.size("decoder_pred.weight", 0, axes=2) // 3),
        grid=math.isqrt(weights.size("decoder_pos_embed", 1, axes=3) - 1),
    )


RGB = Kind(
    name="rgb",
    title="RGB head",
    network=RGBHead,
    default=RGBHeadConfig(),
    infer=_infer,
    paper=True,
    hidden=("heads",),
    unpublished=("mlp_width", "grid"),
)
