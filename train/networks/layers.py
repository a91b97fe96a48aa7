"""The blocks of the tokenizer, and the parts that the world models share with it.

A block is two residual steps, attention and a gated MLP, each scaled per channel by a learned layer scale that
starts at 1e-5. Parameter names are those of the published weights.

Shapes: B batch · L tokens in a sequence · D width · N heads of H: 64, or all of a narrower network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.train.networks.rope import HEAD_WIDTH, Rotation, rotate

INITIAL_LAYER_SCALE = 1e-5
INITIAL_STD = 0.02


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((width,), INITIAL_LAYER_SCALE))

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Return `x` with each channel scaled."""
        return x * self.lambda1


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) · up(x))`, two thirds as wide as a plain MLP of ratio 4 and so of the same size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * (4 * width) // 3
        self.gate_proj = nn.Linear(width, hidden)
        self.up_proj = nn.Linear(width, hidden)
        self.down_proj = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Return the layer's output for each token."""
        hidden: Tensor = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(hidden)


class MLP(nn.Module):
    """`down(gelu(up(x)))`, four times as wide inside, with the exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, 4 * width)
        self.down_proj = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Return the layer's output for each token."""
        return self.down_proj(F.gelu(self.up_proj(x)))


class SelfAttention(nn.Module):
    """Rotary self-attention, with normalised queries and keys and a gate per head (both optional).

    The rotation comes before the normalisation. Each head's output is multiplied by `sigmoid(attn_gate(x))`, which
    lets a head stay silent if it has nothing to add.
    """

    def __init__(self, width: int, qk_norm: bool, gated: bool) -> None:
        super().__init__()
        head = head_width(width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(head, bias=False) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head, bias=False) if qk_norm else nn.Identity()
        self.attn_gate = nn.Linear(width, width // head) if gated else None

    def forward(
        self, x: Float[Tensor, "B L D"], rotation: Rotation, outputs: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Return the attention of the first `outputs` tokens (None: of all L) over all L tokens."""
        asking = x if outputs is None else x[:, :outputs]
        q = self.q_norm(rotate(split_heads(self.q_proj(asking)), rotation[:outputs]))
        k = self.k_norm(rotate(split_heads(self.k_proj(x)), rotation))
        v = split_heads(self.v_proj(x))
        heads = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        heads = heads.transpose(1, 2)  # (B, Q, N, H)
        if self.attn_gate is not None:
            heads = heads * self.attn_gate(asking).sigmoid()[..., None]
        return self.o_proj(heads.flatten(-2))


class Block(nn.Module):
    """Pre-norm self-attention and MLP, each behind a layer scale."""

    def __init__(self, width: int, qk_norm: bool, gated: bool, swiglu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, qk_norm, gated)
        self.layer_scale1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = SwiGLU(width) if swiglu else MLP(width)
        self.layer_scale2 = LayerScale(width)

    def forward(
        self, x: Float[Tensor, "B L D"], rotation: Rotation, outputs: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Return the first `outputs` tokens (None: all L) after this block.

        A stack whose first token alone is read asks its last block for that token only: the others would be computed
        for nothing.
        """
        residual = x if outputs is None else x[:, :outputs]
        residual = residual + self.layer_scale1(self.attention(self.norm1(x), rotation, outputs))
        return residual + self.layer_scale2(self.mlp(self.norm2(residual)))


def heads_of(width: int) -> int:
    """Return how many heads of 64 a network of this width has.

    Raises:
        ValueError: they do not fill it.
    """
    if width <= 0 or width % HEAD_WIDTH:
        raise ValueError(f"width is {width}, expected a positive multiple of {HEAD_WIDTH} (one head's width)")
    return width // HEAD_WIDTH


def head_width(width: int) -> int:
    """Return the width of a head of a network that may be narrower than 64, and then has one head, of 4, 8, …, 60.

    Raises:
        ValueError: there are no such heads.
    """
    if 0 < width < HEAD_WIDTH and width % 4 == 0:  # pairs of entries turn with the row, and as many with the column
        return width
    if width <= 0 or width % HEAD_WIDTH:
        raise ValueError(f"width is {width}, expected a positive multiple of {HEAD_WIDTH}, or of 4 below that")
    return HEAD_WIDTH


def split_heads(x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens N H"]:
    """Cut the width into heads."""
    return x.unflatten(-1, (-1, head_width(x.shape[-1])))


def initialise(module: nn.Module) -> None:
    """Set one module's starting weights: truncated normal of std 0.02, biases 0. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
