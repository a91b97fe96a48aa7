"""The frozen backbone: uint8 frames in, DINOv3's patch features out.

`Backbone.load` takes a folder or a name on the Hub, checks that the weights are whole, and gives a network that stays
in eval mode and never trains, also inside a network that does. Normalisation is float32 everywhere. With bfloat16 the
matrix products run in bfloat16 under autocast, while normalisations and the residual stream stay float32; the features
are float32 either way. The black frame's features are float32 of a CPU whatever the rest runs on, so that all stores of
a backbone agree about them. ViT-B/16 costs about 47 GFLOP for a frame of 256 × 256 pixels and 215 GFLOP for 512 × 512.

`B` batch · `P` patches in a frame, row-major · `D` feature width
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.devices import dtype_of
from deltactl.errors import ConfigError
from deltactl.featurize.dinov3 import find_folder, load_model, read_config, read_preprocessing, weight_files
from deltactl.featurize.merged import merge_layers, store_products
from deltactl.featurize.weights import read_tensors, weights_hash

# What of config.json the features depend on; the rest is bookkeeping, and differs between library versions.
SETTINGS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_register_tokens"),
    *("patch_size", "rope_theta", "hidden_act", "use_gated_mlp", "layer_norm_eps"),
)


class Backbone(nn.Module):
    """A frozen DINOv3 vision transformer (arXiv 2508.10104); build it with `load`.

    Called with frames `(B, 3, H, W)`, uint8 RGB, whose sides are multiples of `patch_size`, it returns the final
    LayerNorm's output for the patches, `(B, P, D)` float32, without class and register tokens.
    """

    image_mean: Float[Tensor, " 3"]
    image_std: Float[Tensor, " 3"]

    def __init__(self, folder: Path, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.name = name
        """The folder or Hub name it was loaded from."""
        self.folder = folder
        self.dtype = dtype
        self.model = load_model(folder)
        self._merged = False
        if dtype != torch.float32:
            store_products(self.model, dtype)
        preprocessing = read_preprocessing(folder)
        self.rescale_factor = float(preprocessing["rescale_factor"])
        self.register_buffer("image_mean", torch.tensor(preprocessing["image_mean"]), persistent=False)
        self.register_buffer("image_std", torch.tensor(preprocessing["image_std"]), persistent=False)
        self._black: dict[tuple[int, int], Tensor] = {}
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = DEFAULT_BACKBONE,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
    ) -> Backbone:
        """Load a backbone from a local folder or from the Hub (`owner/name`).

        Args:
            name_or_folder: a folder as `save_pretrained` writes it, with `preprocessor_config.json`, or a Hub name.
            device: where it computes; `"auto"` is CUDA where there is one.
            dtype: `torch.float32` or `torch.bfloat16`; None is bfloat16 on CUDA and float32 elsewhere.

        Raises:
            HubError: the Hub does not hand the model out (licence, name, network).
            CheckpointError: the folder is not a whole DINOv3 model.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        if dtype is None:
            dtype = dtype_of("auto", device)
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; a backbone computes in torch.float32 or torch.bfloat16")
        return cls(find_folder(str(name_or_folder)), str(name_or_folder), dtype).to(device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.image_mean.device

    @property
    def dim(self) -> int:
        """The features' width `D`."""
        return int(self.model.config.hidden_size)

    @property
    def patch_size(self) -> int:
        """Pixels along one side of a patch."""
        return int(self.model.config.patch_size)

    @property
    def num_layers(self) -> int:
        """The number of transformer blocks."""
        return int(self.model.config.num_hidden_layers)

    @property
    def norm_weight(self) -> Float[Tensor, " D"]:
        """The weight of the final LayerNorm, by which the RGB head un-normalises features."""
        weight: Tensor = self.model.norm.weight
        return weight

    @property
    def norm_bias(self) -> Float[Tensor, " D"]:
        """The bias of the final LayerNorm."""
        bias: Tensor = self.model.norm.bias
        return bias

    @cached_property
    def content_hash(self) -> str:
        """The hash of weights, sizes and normalisation: equal for a copy anywhere, in hexadecimal.

        Read from the files once, when first asked for. See `deltactl.featurize.weights.weights_hash`.
        """
        return _content_hash(self.folder, self.model.config, read_preprocessing(self.folder))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches in a frame of that many pixels; ConfigError where they do not fit."""
        return _grid(self.patch_size, height, width)

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002 (the signature is torch's)
        """Stay in eval mode: in train mode the positions would be augmented."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """Return the patch features of the frames; see the class."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}; expected uint8 (B, 3, H, W)")
        rows, columns = self.grid(*frames.shape[2:])
        # Autocast is off for the normalisation also where a caller has switched it on.
        with torch.autocast(frames.device.type, enabled=False):
            pixels = frames.float() * self.rescale_factor
            pixels = (pixels - self.image_mean[:, None, None]) / self.image_std[:, None, None]
        with _precision(frames.device, self.dtype):
            hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, -rows * columns :].float()

    def merge(self, height: int, width: int) -> None:
        """Rearrange the layers as a GPU and the compiler like them, for frames of this size; see `merged`.

        The features are the same up to rounding; on a CPU, whose features are kept to the byte, only compiled networks
        are rearranged.
        """
        self.grid(height, width)
        if not self._merged:
            merge_layers(self.model)
            self._merged = True
        self.model.rope_embeddings.prepare(height, width, self.device)

    def black_features(self, height: int, width: int) -> Float[Tensor, "P D"]:
        """Return the features of an all-zero frame of that many pixels, which precedes each clip.

        Computed once, in float32 on the CPU; where this backbone is elsewhere or otherwise, another one is loaded for
        that (a second or two).
        """
        key = (height, width)
        if key not in self._black or self._black[key].device != self.device:
            self.grid(height, width)
            plain = self.device.type == "cpu" and self.dtype == torch.float32 and not self._merged
            network = self if plain else Backbone(self.folder, self.name, torch.float32)
            frame = torch.zeros(1, 3, height, width, dtype=torch.uint8)
            self._black[key] = network(frame)[0].to(self.device)
        return self._black[key]


@dataclass(frozen=True)
class BackboneFacts:
    """What the files of a backbone say of its features, without its network."""

    content_hash: str
    """As `Backbone.content_hash`."""
    dim: int
    patch_size: int

    @classmethod
    def read(cls, name_or_folder: str) -> BackboneFacts:
        """Read a backbone's configuration and hash its weights, at about 1 GB a second; errors as `Backbone.load`."""
        folder = find_folder(name_or_folder)
        config = read_config(folder)
        content_hash = _content_hash(folder, config, read_preprocessing(folder))
        return cls(content_hash, int(config.hidden_size), int(config.patch_size))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches in a frame of that many pixels; ConfigError where they do not fit."""
        return _grid(self.patch_size, height, width)


def _content_hash(folder: Path, config: Any, preprocessing: Mapping[str, Any]) -> str:
    settings = {
        **{key: getattr(config, key) for key in SETTINGS},
        # As the network has them: in float32.
        "image_mean": torch.tensor(preprocessing["image_mean"]).tolist(),
        "image_std": torch.tensor(preprocessing["image_std"]).tolist(),
        "rescale_factor": float(preprocessing["rescale_factor"]),
    }
    return weights_hash(settings, (each for file in weight_files(folder) for each in read_tensors(file)))


def _grid(patch: int, height: int, width: int) -> tuple[int, int]:
    if height < patch or width < patch or height % patch or width % patch:
        raise ConfigError(
            f"frames are {height} x {width} pixels (height x width); both must be multiples of the backbone's "
            f"patch size, {patch}, such as {_nearest(height, patch)} x {_nearest(width, patch)}"
        )
    return height // patch, width // patch


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


def _nearest(pixels: int, patch: int) -> int:
    return max(1, round(pixels / patch)) * patch


def describe_backbone(folder: str) -> dict[str, Any]:
    """Return facts by name about a backbone; its weights are read and hashed. CheckpointError where it is not whole."""
    backbone = Backbone.load(folder, "cpu")
    return {
        "kind": "backbone (DINOv3)",
        "width": backbone.dim,
        "depth": backbone.num_layers,
        "patch": f"{backbone.patch_size} pixels",
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "content hash": backbone.content_hash,
    }
