"""How much work the networks are: the floating point operations of their matrix products, two for a multiply-add.

Takes the configs of networks and the size of their frames. The networks themselves run on torch's meta device, where
nothing is computed, and `FlopCounterMode` counts what they ask for; norms, activations and rotations are not in it, a
few per cent. A step of training is counted with its backward pass. One count takes a few tenths of a second and is kept
for as long as the program runs.

From tokens products are not all: nothing but the world model computes there, and on a GPU its search is as much bound
by what kernels read and write between the products, its pass with gradients by the number of its small kernels. So
these two are reckoned as well (`search_bytes`, `pass_kernels`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import torch

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.featurize.backbones.family import Outline, grid_of
from deltactl.featurize.backbones.known import outline_of
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig

SEARCH_PASSES = 11
"""Times that a block of the search reads or writes all its queries in float32, as inductor fuses it."""
PASS_KERNELS = 75
"""Kernels and library calls of a block in the pass with gradients, forward and backward; each takes microseconds."""


@dataclass(frozen=True)
class NetworkSizes:
    """Everything that works on a clip, and on frames of which size: what a step costs depends on no more than that."""

    size: FrameSize
    """Height and width of the frames in pixels."""
    backbone: Outline = field(default_factory=lambda: outline_of(DEFAULT_BACKBONE))
    tokenizer: DeltaTokConfig = field(default_factory=DeltaTokConfig)
    world: DeltaWorldConfig | DinoWorldConfig = field(default_factory=DeltaWorldConfig)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in a frame.

        Raises:
            ConfigError: a side is not a multiple of the backbone's patch size.
        """
        return grid_of(*self.size.pair, self.backbone.patch_size)

    @property
    def patches(self) -> int:
        """Patches in a frame."""
        rows, columns = self.grid
        return rows * columns

    @property
    def width(self) -> int:
        """Width of features."""
        return self.tokenizer.width

    def backbone_flops(self) -> int:
        """Return the FLOPs of the backbone for one step of features: for one frame, of most backbones."""
        backbone = self.backbone
        return _of_depth(backbone.depth, lambda depth: _backbone(backbone, depth, self.size))

    def encode_flops(self) -> int:
        """Return the FLOPs of the tokenizer's encoder for one frame: two frames' patches and the tokens."""
        return self._tokenizer_flops("encode")

    def decode_flops(self) -> int:
        """Return the FLOPs of the tokenizer's decoder for one frame."""
        return self._tokenizer_flops("decode")

    def tokenizer_step_flops(self) -> int:
        """Return the FLOPs of training on one pair of frames whose features are there."""
        return self._tokenizer_flops("train")

    def world_step_flops(self, frames: int, queries: int = 1) -> int:
        """Return the FLOPs of training the world model on one clip whose tokens, or features, are there.

        Best of many (DeltaWorld) tries all queries without gradients and the best one of each frame again, with them.
        """
        config, grid = self.world, self.grid
        return _of_depth(config.depth, lambda depth: _world_step(replace(config, depth=depth), grid, frames, queries))

    def search_bytes(self, frames: int, queries: int) -> float:
        """Return the bytes that fused kernels move between the matrix products of one clip's search, on a GPU."""
        asked = queries * (self.world.tokens_per_frame if isinstance(self.world, DeltaWorldConfig) else 1)
        return SEARCH_PASSES * 4.0 * self.world.depth * (frames - 1) * asked * self.world.width

    def pass_kernels(self) -> int:
        """Return the small kernels of one batch's pass with gradients, however many clips it has, on a GPU."""
        return PASS_KERNELS * self.world.depth

    def _tokenizer_flops(self, part: Literal["encode", "decode", "train"]) -> int:
        config, grid = self.tokenizer, self.grid
        return _of_depth(config.depth, lambda depth: _tokenizer(replace(config, depth=depth), grid, part))


def counted_flops(run: Callable[[], object]) -> int:
    """Return the FLOPs of the matrix products that `run` asks for, of which backward passes are a part."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # It would hang hooks on modules to count each apart, and these fail if gradients are off, as in the search.
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]
    with sdpa_kernel(SDPBackend.MATH), counter:  # it knows the products of this one, not a CPU's fused kernels
        run()
    return counter.get_total_flops()


class _OneModule(contextlib.nullcontext[None]):
    """Stands in for the counter's tracker of modules: everything belongs to one."""

    parents = frozenset({"Global"})


def _of_depth(depth: int, flops: Callable[[int], int]) -> int:
    """Return the FLOPs of so many blocks from those of one and of two: blocks are alike, and counting takes time."""
    one, two = flops(1), flops(2)
    return one + (depth - 1) * (two - one)


@cache
def _backbone(backbone: Outline, depth: int, size: FrameSize) -> int:
    with torch.device("meta"), torch.no_grad():
        network = backbone.network(depth).eval()
        step = backbone.frames_per_step
        frames = torch.empty(1, *(() if step == 1 else (step,)), 3, *size.pair, dtype=torch.uint8)
        return counted_flops(lambda: network(frames))


@cache
def _tokenizer(config: DeltaTokConfig, grid: tuple[int, int], part: Literal["encode", "decode", "train"]) -> int:
    """Return the FLOPs of one frame, or one pair of them, of such a grid of patches."""
    with torch.device("meta"):
        network = DeltaTok(replace(config, rope_augment=False))  # no random draws
        frame = torch.empty(1, math.prod(grid), config.width)
        tokens = torch.empty(1, config.tokens_per_frame, config.token_width)
        if part == "encode":
            return counted_flops(lambda: network.encode(frame, frame, grid))
        if part == "decode":
            return counted_flops(lambda: network.decode(tokens, frame, grid))
        return counted_flops(lambda: network(frame, frame, grid).sum().backward())


@cache
def _world_step(config: DeltaWorldConfig | DinoWorldConfig, grid: tuple[int, int], frames: int, queries: int) -> int:
    """Return the FLOPs of a step on one clip, forward and backward."""
    with torch.device("meta"):
        times = torch.empty(1, frames)
        if isinstance(config, DinoWorldConfig):
            baseline, features = DinoWorld(config), torch.empty(1, frames, math.prod(grid), config.feature_dim)
            return counted_flops(lambda: baseline(features, times, grid).sum().backward())
        world = DeltaWorld(config)
        tokens = torch.empty(1, frames, config.tokens_per_frame, config.token_dim)
        tried = torch.empty(1, frames - 1, queries, config.width)
        return counted_flops(lambda: world(tokens, times, tried).loss.backward())
