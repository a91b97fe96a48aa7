"""The frozen backbone, whatever its family: uint8 frames in, patch features out.

`Backbone.load` takes a folder or a name on the Hub, asks the family for the network, measures that it gives one vector
for each patch, and keeps it in eval mode, also inside a network that trains. With bfloat16 the matrix products run in
bfloat16 under autocast, while normalisations and the residual stream stay float32; the features are float32 either way.
The black frame's features are float32 of a CPU whatever the rest runs on, so that all stores of a backbone agree about
them.

Where the backbone makes one step of features from several frames (`frames_per_step`), the frames of each step go
through the network by themselves: features are the same however many come at once, and know of no later step.

`B` batch · `T` frames of a clip · `f` frames of a step · `S` = `T/f` steps · `P` patches in a frame, row-major ·
`D` feature width
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.devices import dtype_of, store_products
from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import Family
from deltactl.featurize.backbones.known import find
from deltactl.featurize.backbones.model_folder import ModelFolder

TRIED = (2, 3)
"""Rows and columns of patches of the frame that a network is tried on when it is loaded."""


class Backbone(nn.Module):
    """A frozen backbone; build it with `load`.

    Called with clips `(B, T, 3, H, W)`, uint8 RGB, of whole steps of `frames_per_step` frames whose sides are multiples
    of `patch_size`, it returns the features of the patches, `(B, T/f, P, D)` float32. Where a step is one frame it
    takes frames `(B, 3, H, W)` as well, and returns `(B, P, D)`.
    """

    _place: Tensor

    def __init__(self, family: Family, folder: ModelFolder, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.family = family
        self.folder = folder
        self.name = name
        """The folder or Hub name it was loaded from."""
        self.dtype = dtype
        self.facts = family.facts(folder)
        self.network = family.load(folder)
        if dtype != torch.float32:
            store_products(self.network, dtype)
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._arranged = False
        self._black: dict[tuple[int, int], Tensor] = {}
        self.requires_grad_(False)
        self.eval()
        rows, columns = self.facts.fixed_size or (each * self.patch_size for each in TRIED)
        self(torch.zeros(1, self.frames_per_step, 3, rows, columns, dtype=torch.uint8))

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = DEFAULT_BACKBONE,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
    ) -> Backbone:
        """Load a backbone from a local folder or from the Hub (`owner/name`), of any family that is known.

        Args:
            name_or_folder: a folder as `save_pretrained` writes it, with `preprocessor_config.json`, or a Hub name;
                behind `FAMILY:` where its config.json does not tell the family, and with `?layers=8,11&norm=off`
                behind it for others than the last layer, normed.
            device: where it computes; `"auto"` is CUDA where there is one.
            dtype: `torch.float32` or `torch.bfloat16`; None is bfloat16 on CUDA and float32 elsewhere.

        Raises:
            HubError: the Hub does not hand the model out (licence, name, network).
            CheckpointError: the folder is not a whole model of a known family, or the network does not give what the
                family says.
            ConfigError: there is no such family.
            ValueError: `dtype` is another one.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        if dtype is None:
            dtype = dtype_of("auto", device)
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; a backbone computes in torch.float32 or torch.bfloat16")
        return cls(*find(str(name_or_folder)), str(name_or_folder), dtype).to(device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._place.device

    @property
    def dim(self) -> int:
        """The features' width `D`."""
        return self.facts.dim

    @property
    def patch_size(self) -> int:
        """Pixels along one side of a patch."""
        return self.facts.patch_size

    @property
    def frames_per_step(self) -> int:
        """Frames that become one step of features."""
        return self.facts.frames_per_step

    @property
    def content_hash(self) -> str:
        """The hash of weights, sizes and normalisation; see `BackboneFacts.content_hash`."""
        return self.facts.content_hash

    @property
    def norm_weight(self) -> Float[Tensor, " D"]:
        """The weight of the final LayerNorm, by which the RGB head un-normalises features; ones where none is known."""
        norm = self.network.final_norm()
        known = None if norm is None else norm.weight
        return torch.ones(self.dim, device=self.device) if known is None else known

    @property
    def norm_bias(self) -> Float[Tensor, " D"]:
        """The bias of the final LayerNorm; zeros where none is known."""
        norm = self.network.final_norm()
        known = None if norm is None else norm.bias
        return torch.zeros(self.dim, device=self.device) if known is None else known

    @property
    def image_mean(self) -> Float[Tensor, " 3"]:
        """The mean that is taken off RGB in [0, 1]; zeros where none is known."""
        pixels = self.network.normalisation()
        return torch.zeros(3, device=self.device) if pixels is None else pixels.mean / pixels.white

    @property
    def image_std(self) -> Float[Tensor, " 3"]:
        """The standard deviation that RGB in [0, 1] is divided by; ones where none is known."""
        pixels = self.network.normalisation()
        return torch.ones(3, device=self.device) if pixels is None else pixels.std / pixels.white

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches in a frame of that many pixels.

        Raises:
            ConfigError: they do not fit.
        """
        return self.facts.grid(height, width)

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002 (the signature is torch's)
        """Stay in eval mode: in train mode positions would be augmented, and parts dropped."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clip: UInt8[Tensor, "B *T 3 H W"]) -> Float[Tensor, "B *S P D"]:
        """Return the patch features of frames, or of the steps of clips; see the class.

        Raises:
            CheckpointError: the network gave something else than one vector of width `D` for each patch.
            ValueError: these are no frames, or no whole steps.
        """
        step = self.frames_per_step
        if clip.dtype != torch.uint8 or clip.ndim not in (4, 5) or clip.shape[-3] != 3:
            raise ValueError(
                f"frames are {clip.dtype} {tuple(clip.shape)}; expected uint8 (B, 3, H, W) or (B, T, 3, H, W)"
            )
        if step > 1 and (clip.ndim != 5 or clip.shape[1] % step):
            raise ValueError(
                f"a clip is {tuple(clip.shape)}; {self.name} makes one step from {step} frames: expected "
                f"(B, T, 3, H, W) with T a multiple of {step}"
            )
        height, width = clip.shape[-2:]
        rows, columns = self.grid(height, width)
        frames = clip.flatten(0, 1) if clip.ndim == 5 else clip
        units = frames if step == 1 else frames.unflatten(0, (-1, step))
        with _precision(clip.device, self.dtype):
            features: Tensor = self.network(units)
        expected = (len(units), *(() if step == 1 else (1,)), rows * columns, self.dim)
        if features.shape != expected:
            raise CheckpointError(
                f"backbone {self.name} ({self.family.title}) made {tuple(features.shape)} of {len(frames)} frames of "
                f"{height} x {width} pixels; expected {expected}: {rows} x {columns} patches of {self.patch_size} "
                f"pixels, each {self.dim} wide{self._prefix_said()}"
            )
        if clip.ndim == 5:
            features = features.reshape(len(clip), -1, rows * columns, self.dim)
        return features.float()

    def _prefix_said(self) -> str:
        prefix = self.network.prefix
        return f", behind {prefix} other tokens that are left out" if prefix else ""

    def merge(self, height: int, width: int) -> None:
        """Rearrange the layers as a GPU and the compiler like them, for frames of this size.

        The features are the same up to rounding; on a CPU, whose features are kept to the byte, only compiled networks
        are rearranged.
        """
        self.grid(height, width)
        self.network.arrange(height, width, self.device)
        self._arranged = True

    def black_features(self, height: int, width: int) -> Float[Tensor, "P D"]:
        """Return the features of the step that precedes each clip, whose frames of that many pixels are all zero.

        Computed once, in float32 on the CPU; where this backbone is elsewhere or otherwise, another one is loaded for
        that (a second or two).
        """
        key = (height, width)
        if key not in self._black or self._black[key].device != self.device:
            self.grid(height, width)
            plain = self.device.type == "cpu" and self.dtype == torch.float32 and not self._arranged
            backbone = self if plain else Backbone(self.family, self.folder, self.name, torch.float32)
            frames = torch.zeros(1, self.frames_per_step, 3, height, width, dtype=torch.uint8)
            self._black[key] = backbone(frames)[0, 0].to(self.device)
        return self._black[key]


@contextlib.contextmanager
def _precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype`: under autocast for bfloat16; in float32 without TF32 in the patch convolution."""
    if dtype == torch.bfloat16:
        with torch.autocast(device.type, dtype):
            yield
        return
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or torch.compiler.is_compiling():  # which cannot follow the switch below
            yield
            return
        cudnn: Any = torch.backends.cudnn  # its operators are missing from torch's type hints
        before = cudnn.conv.fp32_precision
        cudnn.conv.fp32_precision = "ieee"
        try:
            yield
        finally:
            cudnn.conv.fp32_precision = before


def describe_backbone(name: str) -> dict[str, Any]:
    """Return facts by name about a backbone; its weights are read and hashed.

    Raises:
        CheckpointError: it is not whole.
    """
    backbone = Backbone.load(name, "cpu")
    choice = backbone.folder.choice
    return {
        "kind": f"backbone ({backbone.family.title})",
        "width": backbone.dim,
        **({} if backbone.facts.depth is None else {"depth": backbone.facts.depth}),
        **({"layers": ", ".join(map(str, choice.layers))} if choice.layers else {}),
        **({} if choice.norm else {"final norm": "left out"}),
        "patch": f"{backbone.patch_size} pixels",
        **({} if backbone.frames_per_step == 1 else {"frames per step": backbone.frames_per_step}),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "content hash": backbone.content_hash,
    }
