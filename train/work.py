"""How much work the networks are: FLOPs (two for a multiply-add) of their matrix products. Pure functions.

`P` patches in a frame, `D` width, `L` blocks. Norms, activations and rotations are left out: a few per cent. A step of
training costs three times the forward pass of what learns (one forward, two backward), and one of what is frozen.

From tokens that is not enough: nothing but the world model computes there, and on a GPU its search is as much bound by
what kernels read and write between the products, its pass with gradients by the number of its small kernels. So these
two are counted as well (`search_bytes`, `pass_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass

from deltactl.configs.training import HEAD_WIDTH
from deltactl.train.predictor import folding_pays

PATCH = 16
PREFIX_TOKENS = 5
"""Class and register tokens of DINOv3."""


SEARCH_PASSES = 11
"""Times that a block of the search reads or writes all its queries in float32, as inductor fuses it."""
PASS_KERNELS = 75
"""Kernels and library calls of a block in the pass with gradients, forward and backward; each takes microseconds."""


def attention_flops(queries: int, keys: int, width: int) -> float:
    """Return the FLOPs of scores and weighted sums in one attention."""
    return 4.0 * queries * keys * width


@dataclass(frozen=True)
class BackboneSizes:
    """What the cost of a DINOv3 backbone depends on."""

    width: int = 768
    depth: int = 12
    mlp: int = 8
    """Weights of an MLP over the square of the width."""


VIT_B = BackboneSizes()
BACKBONES = {
    "vits16": BackboneSizes(384, 12, 8),
    "vits16plus": BackboneSizes(384, 12, 12),
    "vitb16": VIT_B,
    "vitl16": BackboneSizes(1024, 24, 8),
    "vith16plus": BackboneSizes(1280, 32, 12),
    "vit7b16": BackboneSizes(4096, 40, 6),
}
"""The DINOv3 family; the MLPs of the plus and 7B models are gated."""


def backbone_sizes(name: str) -> BackboneSizes:
    """Return the sizes of the backbone that a Hub name or path names; those of a ViT-B where it names none."""
    words = name.lower().replace("_", "-").split("/")[-1].split("-")
    return next((BACKBONES[word] for word in words if word in BACKBONES), VIT_B)


@dataclass(frozen=True)
class NetworkSizes:
    """What the cost of the networks depends on."""

    size: int
    """Side of the frames in pixels."""
    width: int = 768
    """Width of features and tokens."""
    backbone_depth: int = 12
    backbone_mlp: int = 8
    """Weights of an MLP of the backbone over the square of its width."""
    tokenizer_depth: int = 12
    swiglu: bool = True
    world_width: int = 768
    world_depth: int = 12

    @property
    def patches(self) -> int:
        """Patches in a frame."""
        return (self.size // PATCH) ** 2

    def backbone(self) -> float:
        """Return the FLOPs of the backbone for one frame."""
        tokens = self.patches + PREFIX_TOKENS
        block = 2.0 * tokens * (4 + self.backbone_mlp) * self.width**2 + attention_flops(tokens, tokens, self.width)
        return self.backbone_depth * block + 2.0 * self.patches * PATCH**2 * 3 * self.width

    def encode(self) -> float:
        """Return the FLOPs of the tokenizer's encoder for one frame: two frames' patches and the token.

        The last block is asked for the token alone: keys and values of all, the rest of one.
        """
        tokens = 2 * self.patches + 1
        keys = 2.0 * tokens * 2 * self.width**2
        token = 2.0 * (2 * self.width**2 + self._mlp()) + attention_flops(1, tokens, self.width)
        return (self.tokenizer_depth - 1) * self._tokenizer_block(tokens) + keys + token

    def decode(self) -> float:
        """Return the FLOPs of the tokenizer's decoder for one frame."""
        return self.tokenizer_depth * self._tokenizer_block(self.patches + 1)

    def tokenizer_step(self) -> float:
        """Return the FLOPs of training on one pair of frames whose features are there."""
        return 3.0 * (self.encode() + self.decode())

    def world_step(self, frames: int, queries: int) -> float:
        """Return the FLOPs of best-of-many training on one clip whose tokens are there.

        All queries run forward, the best one of each frame again, with gradients.
        """
        targets = frames - 1
        trained = 3.0 * (self._predictor(targets, frames) + self._keys(frames))
        return self._search(targets, queries) + self._keys(frames) + trained

    def search_bytes(self, frames: int, queries: int) -> float:
        """Return the bytes that fused kernels move between the matrix products of one clip's search, on a GPU."""
        return SEARCH_PASSES * 4.0 * self.world_depth * (frames - 1) * queries * self.world_width

    def pass_kernels(self) -> int:
        """Return the small kernels of one batch's pass with gradients, however many clips it has, on a GPU."""
        return PASS_KERNELS * self.world_depth

    def dinoworld_step(self, frames: int) -> float:
        """Return the FLOPs of training the discriminative baseline on one clip whose features are there."""
        return 3.0 * (
            self._predictor((frames - 1) * self.patches, frames * self.patches) + self._keys(frames * self.patches)
        )

    def _tokenizer_block(self, tokens: int) -> float:
        projections = 4 * self.width**2 + self._mlp()
        return 2.0 * tokens * projections + attention_flops(tokens, tokens, self.width)

    def _mlp(self) -> float:
        """Return the weights of an MLP."""
        hidden = 2 * 4 * self.width // 3 if self.swiglu else 4 * self.width
        return (3.0 if self.swiglu else 2.0) * self.width * hidden

    def _search(self, targets: int, queries: int) -> float:
        """Return the FLOPs of trying so many queries for each target, where frame t sees t tokens."""
        width, length = self.world_width, targets
        if not folding_pays(group=queries, length=length, width=width):
            return self._predictor(targets * queries, length)
        slots = width // HEAD_WIDTH * length
        folding = 2.0 * (targets + 1) * length * width**2
        block = 2.0 * targets * queries * (8 * width**2 + 2 * slots * width) + folding
        return self.world_depth * block + 2.0 * targets * queries * width * self.width

    def _predictor(self, queries: int, keys: int) -> float:
        # Queries and outputs are projected, then an MLP of ratio 4.
        block = 2.0 * queries * 10 * self.world_width**2 + attention_flops(queries, keys, self.world_width)
        return self.world_depth * block + 2.0 * queries * self.world_width * self.width

    def _keys(self, keys: int) -> float:
        return self.world_depth * 2.0 * keys * self.width * 2 * self.world_width
