"""The predictor of both world models: queries look at remembered tokens and turn into what comes next.

Queries only cross-attend: they never see each other, and the tokens never change from layer to layer. So a layer's
keys and values depend on the tokens alone. `remember` computes them once per layer, and that `Memory` serves every
query asked of these tokens: 256 tried ones, all samples, the search and the step with gradients. When a token joins,
only its own keys and values are added.

Queries come in groups: F frames with G queries each (tried queries, each for all tokens of its frame, or patches).
Group f sees the first `visible[f]` tokens of the memory. Where all groups together are a few queries, one masked
attention serves them: an attention for each frame would be F library calls in each layer, whose launches take longer
than their arithmetic. Where they are many (patches), each frame's attention is cut to what it sees, which halves the
work.

Attention of many queries to few tokens is computed the other way round. A score is `rotate(q_proj(x)) · key`, which is
`x · q_projᵀ(rotate_back(key))`: with the projection moved to the keys, and that of the output to the values, a query
costs N · L products of width W twice instead of W of them, and each of 256 tried queries is a fifth cheaper. The
numbers are the same up to rounding.

Shapes: B batch · F frames asked for · G queries per frame · L tokens in memory · D token width · W predictor width ·
N heads of 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from deltactl.train.networks.kinds import Shapes
from deltactl.train.networks.layers import MLP, LayerScale, heads_of, initialise, split_heads
from deltactl.train.networks.rope import HEAD_WIDTH, Rotation, rotate

MASKED_QUERIES = 64
"""Queries of all frames together, up to which they share one masked attention. For seven frames and twelve layers that
is 12 pairs of products in place of 84 attention calls, each of which takes longer to launch than to compute."""


def folding_pays(*, group: int, length: int, width: int) -> bool:
    """Whether cross-attention does less with its projections moved to the `length` tokens (see the top).

    Either they are applied to each of the `group` queries that see these tokens, W² products each, or to each token
    (once for every head, L · W² in all), after which a query takes N · L · W products.
    """
    slots = width // HEAD_WIDTH * length
    return group * (width - slots) > length * width


@dataclass(frozen=True)
class Memory:
    """Rotated keys and values of the tokens seen so far, one pair per layer."""

    keys: tuple[Float[Tensor, "B N L 64"], ...]
    values: tuple[Float[Tensor, "B N L 64"], ...]

    @property
    def length(self) -> int:
        """Return L, the number of tokens remembered."""
        return self.keys[0].shape[2]

    def __getitem__(self, items: slice) -> Memory:
        """Return the memory of some items of the batch."""
        return Memory(tuple(keys[items] for keys in self.keys), tuple(values[items] for values in self.values))

    def joined_by(self, new: Memory) -> Memory:
        """Return the memory with the tokens of `new` after its own."""
        return Memory(
            tuple(torch.cat(pair, dim=2) for pair in zip(self.keys, new.keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(self.values, new.values, strict=True)),
        )

    def for_samples(self, samples: int) -> Memory:
        """Return a memory of batch B · S, each batch item repeated for its S samples."""
        return Memory(
            tuple(keys.repeat_interleave(samples, dim=0) for keys in self.keys),
            tuple(values.repeat_interleave(samples, dim=0) for values in self.values),
        )


class CrossAttention(nn.Module):
    """Rotary attention of queries over remembered tokens."""

    def __init__(self, width: int, token_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(token_dim, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def remember(
        self, tokens: Float[Tensor, "B F G D"], rotation: Rotation, marks: Float[Tensor, "G W"] | None = None
    ) -> tuple[Float[Tensor, "B N L 64"], Float[Tensor, "B N L 64"]]:
        """Return the keys and values of L = F · G tokens; `marks` are added to a frame's keys before they turn."""
        keys, values = self.kv_proj(tokens).chunk(2, dim=-1)
        if marks is not None:
            keys = keys + marks.to(keys.dtype)
        keys = rotate(split_heads(keys), rotation).flatten(1, 2).transpose(1, 2)
        # Contiguous: DistributedDataParallel cuts a compiled graph into parts, and hands views across that it can
        # rebuild only if their memory is in order.
        return keys.contiguous(), split_heads(values).flatten(1, 2).transpose(1, 2).contiguous()

    def forward(
        self,
        x: Float[Tensor, "B F G W"],
        rotation: Rotation,
        keys: Float[Tensor, "B N L 64"],
        values: Float[Tensor, "B N L 64"],
        visible: range,
    ) -> Float[Tensor, "B F G W"]:
        """Return what each query reads from the first `visible[f]` tokens."""
        frames, group = x.shape[1:3]
        keys, values = keys[:, :, : visible[-1]], values[:, :, : visible[-1]]
        # In the search 256 queries ask a few tokens: with the projections on the tokens, each costs a fifth less.
        if folding_pays(group=group, length=visible[-1], width=x.shape[3]):
            return self._folded(x, rotation, keys, values, visible)
        q = rotate(split_heads(self.q_proj(x)), rotation).transpose(2, 3)  # (B, F, N, G, 64)
        # One query a frame, as in the pass with gradients: two products under a mask cost less than a call a frame.
        if frames > 1 and frames * group <= MASKED_QUERIES:
            together = q.transpose(1, 2).flatten(2, 3)  # (B, N, F · G, 64)
            unseen = _unseen(visible, x.device).repeat_interleave(group, dim=0)
            weights = attention_weights((together @ keys.transpose(2, 3)) * HEAD_WIDTH**-0.5, unseen)
            read = (weights.to(values.dtype) @ values).unflatten(2, (frames, group)).transpose(1, 2)
        else:
            # Slices need no mask, and nothing unseen is computed: half the work if queries are many.
            parts = [
                F.scaled_dot_product_attention(part, keys[:, :, :length], values[:, :, :length])
                for part, length in zip(q.unbind(1), visible, strict=True)
            ]
            read = torch.stack(parts, dim=1)
        return self.out_proj(read.transpose(2, 3).flatten(-2))

    def _folded(
        self,
        x: Float[Tensor, "B F G W"],
        rotation: Rotation,
        keys: Float[Tensor, "B N L 64"],
        values: Float[Tensor, "B N L 64"],
        visible: range,
    ) -> Float[Tensor, "B F G W"]:
        """Return the same with both projections moved to the tokens; see the module docstring."""
        # What a key looks like to a query before it is projected and turned: (B, F, L, N, 64), then (B, F, W, N · L).
        turned = rotate(keys.transpose(1, 2)[:, None].expand(-1, len(visible), -1, -1, -1), rotation.back())
        folded_keys = torch.einsum("bflnd,ndw->bfwnl", turned, split_heads(self.q_proj.weight.T).permute(1, 2, 0))
        offsets = torch.einsum("bflnd,nd->bfnl", turned, split_heads(self.q_proj.bias))
        folded_values = torch.einsum("bnld,wnd->bnlw", values, split_heads(self.out_proj.weight)).flatten(1, 2)
        scores = (x @ folded_keys.flatten(3)).unflatten(3, offsets.shape[2:]) + offsets[:, :, None]
        weights = attention_weights(scores * HEAD_WIDTH**-0.5, _unseen(visible, x.device)[:, None, None])
        return weights.flatten(3).to(values.dtype) @ folded_values[:, None] + self.out_proj.bias


def attention_weights(
    scores: Float[Tensor, "*queries L"], unseen: Bool[Tensor, "*#queries L"]
) -> Float[Tensor, "*queries L"]:
    """Return how much of each token a query takes: nothing of those that it does not see."""
    return scores.masked_fill(unseen, -torch.inf).softmax(dim=-1)


def _unseen(visible: range, device: torch.device) -> Bool[Tensor, "F L"]:
    """Return which tokens the queries of each frame do not see; made on the device, where nothing waits for it."""
    counts = torch.arange(visible.start, visible.stop, visible.step, device=device)
    return torch.arange(visible[-1], device=device) >= counts[:, None]


class CrossBlock(nn.Module):
    """Pre-norm cross-attention and MLP, each behind a layer scale. The tokens are taken as they are."""

    def __init__(self, width: int, token_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CrossAttention(width, token_dim)
        self.layer_scale1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.layer_scale2 = LayerScale(width)

    def forward(
        self,
        x: Float[Tensor, "B F G W"],
        rotation: Rotation,
        keys: Float[Tensor, "B N L 64"],
        values: Float[Tensor, "B N L 64"],
        visible: range,
    ) -> Float[Tensor, "B F G W"]:
        """Return the queries after this block."""
        x = x + self.layer_scale1(self.attention(self.norm1(x), rotation, keys, values, visible))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Predictor(nn.Module):
    """A stack of cross-attention blocks, a norm and a linear head back to the tokens' width."""

    def __init__(self, token_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(width, token_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, token_dim)
        self.apply(initialise)

    def remember(
        self, tokens: Float[Tensor, "B F G D"], rotation: Rotation, marks: Float[Tensor, "G W"] | None = None
    ) -> Memory:
        """Return every layer's keys and values of F · G tokens, frame by frame.

        `marks` tell the tokens of a frame apart: they are added to its keys, the same in every layer.
        """
        blocks = cast("Sequence[CrossBlock]", self.blocks)
        pairs = [block.attention.remember(tokens, rotation, marks) for block in blocks]
        return Memory(tuple(keys for keys, _ in pairs), tuple(values for _, values in pairs))

    def forward(
        self, queries: Float[Tensor, "B F G W"], rotation: Rotation, memory: Memory, visible: range
    ) -> Float[Tensor, "B F G D"]:
        """Return one prediction per query; the queries of frame f see the first `visible[f]` tokens of the memory."""
        x = queries
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            x = block(x, rotation, keys, values, visible)
        return self.head(self.norm(x))


def seeing_all(memory: Memory) -> range:
    """Return the `visible` of one frame whose queries see the whole memory."""
    return range(memory.length, memory.length + 1)


def check_width(width: int, depth: int, heads: int) -> None:
    """Refuse sizes that a predictor cannot have, naming the one at fault."""
    if heads_of(width) != heads:
        raise ValueError(f"heads is {heads}, but a predictor of width {width} has {heads_of(width)} heads of 64")
    if depth < 1:
        raise ValueError(f"depth is {depth}, expected at least 1 block")


def predictor_sizes(weights: Shapes) -> tuple[int, int, int, int]:
    """Return the tokens' width, the queries' width, depth and heads that a world model's weights show."""
    dim, width = (weights.size("predictor.head.weight", axis, axes=2) for axis in (0, 1))
    return dim, width, weights.depth("predictor.blocks"), width // HEAD_WIDTH
