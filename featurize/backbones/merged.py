"""The layers of a loaded DINOv3 as a GPU and the compiler like them: equal numbers up to rounding, less memory traffic.

`merge_layers` swaps parts of one model of transformers for parts of ours, with the same weights:

- queries, keys and values come from one product in place of three, which reads the normed tokens once;
- cosines and sines of the positions are buffers, made once for each grid, where the compiler would make them anew in
  every layer; tokens without a place (class, registers) have the angle 0, so that nothing is cut and joined for them;
- the patch embedding is a matrix product in place of a convolution with three channels, which has no fast kernel.

`B` batch · `L` tokens: class, registers, patches · `P` patches · `D` width · `N` heads of `W`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTAttention


def merge_layers(model: nn.Module) -> None:
    """Swap the layers of a DINOv3 model of transformers, in place; see the module."""
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTAttention

    parts: Any = model
    parts.embeddings.patch_embeddings = PatchProduct(parts.embeddings.patch_embeddings)
    parts.rope_embeddings = Positions(parts.rope_embeddings, 1 + int(parts.config.num_register_tokens))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DINOv3ViTAttention):
                setattr(module, name, MergedAttention(child))
    model.requires_grad_(False)


class PatchProduct(nn.Module):
    """The patch embedding as one product of each patch's pixels, in the place of a convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        rows, columns = convolution.kernel_size
        assert convolution.stride == convolution.kernel_size, "patches lie side by side"
        assert convolution.bias is not None, "DINOv3's patch embedding has a bias"
        self.patch = (rows, columns)
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1))  # (D, 3 · rows · columns)
        self.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, pixels: Float[Tensor, "B 3 H_pixels W_pixels"]) -> Float[Tensor, "B D rows columns"]:
        """Return the embedding of every patch, laid out as the convolution's."""
        height, width = self.patch
        patches = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # (B, 3, rows, height, columns, width)
        grid = patches.shape[2], patches.shape[4]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, P, 3 · height · width)
        embedded: Tensor = F.linear(patches, self.weight, self.bias).mT.unflatten(2, grid)
        return embedded


class Positions(nn.Module):
    """Cosines and sines of all tokens of a frame, in the place of the library's, which are of the patches alone."""

    def __init__(self, embedding: nn.Module, unplaced: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.unplaced = unplaced
        """Tokens before the patches, which do not turn."""

    def forward(
        self, pixels: Float[Tensor, "B 3 H_pixels W_pixels"]
    ) -> tuple[Float[Tensor, "L W"], Float[Tensor, "L W"]]:
        """Return cosines and sines for frames of this size; from the buffers where `prepare` has made them."""
        names = _names(pixels.shape[2], pixels.shape[3])
        if hasattr(self, names[0]):
            return getattr(self, names[0]), getattr(self, names[1])
        return self._tables(pixels)

    def prepare(self, height: int, width: int, device: torch.device) -> None:
        """Make the buffers for frames of this many pixels, once."""
        names = _names(height, width)
        if not hasattr(self, names[0]):
            with torch.inference_mode(False), torch.no_grad():  # they outlive the caller's mode
                pixels = torch.empty(1, 3, height, width, device=device)
                for name, table in zip(names, self._tables(pixels), strict=True):
                    self.register_buffer(name, table, persistent=False)

    def _tables(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.embedding(pixels)
        still = (self.unplaced, cos.shape[1])
        return torch.cat((cos.new_ones(still), cos)), torch.cat((sin.new_zeros(still), sin))


class MergedAttention(nn.Module):
    """Rotary self-attention with one product for queries, keys and values, in the place of the library's."""

    def __init__(self, attention: DINOv3ViTAttention) -> None:
        super().__init__()
        parts: list[nn.Linear] = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.heads, self.scaling = int(attention.num_heads), float(attention.scaling)
        width = parts[0].in_features
        biased = any(part.bias is not None for part in parts)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=biased, dtype=parts[0].weight.dtype, device="meta")
        self.qkv_proj.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        if biased:
            biases = [part.weight.new_zeros(width) if part.bias is None else part.bias.detach() for part in parts]
            self.qkv_proj.bias = nn.Parameter(torch.cat(biases))
        self.o_proj: nn.Linear = attention.o_proj

    def forward(
        self,
        hidden_states: Float[Tensor, "B L D"],
        attention_mask: None = None,
        position_embeddings: tuple[Float[Tensor, "L W"], Float[Tensor, "L W"]] | None = None,
        **options: Any,  # the library's, for what a frozen model does not do
    ) -> tuple[Float[Tensor, "B L D"], None]:
        """Return the attention's output, and None in the place of its weights."""
        assert attention_mask is None, "every token sees every other"
        assert position_embeddings is not None, "positions come from `Positions`"
        assert not options.get("output_attentions"), "weights are not kept"
        joined = self.qkv_proj(hidden_states).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, N, W)
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)  # (B, N, L, W)
        cos, sin = position_embeddings
        heads = F.scaled_dot_product_attention(_turn(query, cos, sin), _turn(key, cos, sin), value, scale=self.scaling)
        return self.o_proj(heads.transpose(1, 2).flatten(2)), None


def _turn(
    x: Float[Tensor, "B N L W"], cos: Float[Tensor, "L W"], sin: Float[Tensor, "L W"]
) -> Float[Tensor, "B N L W"]:
    """Turn the two halves of each head against each other, as the library does."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _names(height: int, width: int) -> tuple[str, str]:
    return f"cos_{height}x{width}", f"sin_{height}x{width}"
