"""What a family of backbones is: one frozen record, at the end of the file that describes it.

A family knows one kind of frozen network: what a model folder says of the features, how its weights become a network,
and how much work a network is that was only named. `registry.BACKBONES` lists the records by name; other packages bring
their own through entry points of the group `deltactl.backbones`. What all families have in common stands around them:
the Hub and the folder's files (`model_folder.py`), which family a folder is of (`known.py`), the hash here,
precision and the black frame (`backbone.py`), batches and the compiler (`compute.py`).

`B` batch · `T` frames of a clip · `f` frames of a step · `S` = `T/f` steps · `H`, `W` pixels ·
`P` patches in a frame, row-major · `D` feature width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deltactl.configs.backbone_name import LayerChoice
from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation
from deltactl.featurize.backbones.weights import read_tensors, weights_hash


@dataclass(frozen=True)
class BackboneFacts:
    """What the files of a backbone say of its features, without its network."""

    dim: int
    """The features' width `D`."""
    patch_size: int
    """Pixels along one side of a patch: both sides of a frame are multiples of it."""
    settings: Mapping[str, Any]
    """All that the features depend on besides the weights, as JSON values: sizes, normalisation, options."""
    weights: tuple[Path, ...]
    """The safetensors files."""
    depth: int | None = None
    """Blocks, where it has such; for people."""
    fixed_size: tuple[int, int] | None = None
    """Height and width of the only frames that it takes; None where it takes all multiples of the patch size."""
    can_be_undone: bool = False
    """Whether the final norm and the normalisation of pixels are known, which the RGB head undoes."""
    tower: str = ""
    """What the names of its weights begin with where the files hold a larger model."""
    others: tuple[str, ...] = ()
    """What the names of weights begin with that belong to the rest of a larger model."""
    frames_per_step: int = 1
    """Frames that become one step of features: more than one for backbones of video."""

    @cached_property
    def content_hash(self) -> str:
        """The hash of settings and weights: equal for a copy anywhere, in hexadecimal.

        Read from the files when first asked for, at about 1 GB a second. See
        `deltactl.featurize.backbones.weights.weights_hash`.
        """
        tensors = (each for file in self.weights for each in read_tensors(file))
        return weights_hash(
            self.settings,
            (
                (name.removeprefix(self.tower), tensor)
                for name, tensor in tensors
                if not self.others or not name.startswith(self.others)
            ),
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches in a frame of that many pixels.

        Raises:
            ConfigError: a side is not a multiple of the patch size, or the backbone takes frames of another size only.
        """
        if self.fixed_size not in (None, (height, width)):
            own = self.fixed_size or (height, width)
            raise ConfigError(
                f"frames are {height} x {width} pixels (height x width); the backbone has positions for "
                f"{own[0]} x {own[1]} only: use --size {FrameSize(*own)}"
            )
        return grid_of(height, width, self.patch_size)


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Return rows and columns of patches of so many pixels in a frame; raises ConfigError where they do not fit."""
    if height < patch or width < patch or height % patch or width % patch:
        below, above = (
            FrameSize(*(max(1, each // patch + more * (each % patch > 0)) * patch for each in (height, width)))
            for more in (0, 1)
        )
        nearest = f"{below} or {above}" if below != above else f"{below}"
        raise ConfigError(
            f"frames are {height} x {width} pixels (height x width); both must be multiples of the backbone's "
            f"patch size, {patch}, such as {nearest}"
        )
    return height // patch, width // patch


def check_layers(name: object, choice: LayerChoice, depth: int, *, alike: bool = True) -> None:
    """Check that a backbone has the layers that are chosen; `alike`: of one grid, so that several can be.

    Raises:
        ConfigError: it does not; names the backbone.
    """
    layers = choice.layers or ()
    if missing := [number for number in layers if number > depth]:
        raise ConfigError(
            f"backbone {name} has {depth} layers; layers {','.join(map(str, missing))} are not there: "
            f"choose from 1 to {depth}"
        )
    if len(layers) > 1 and not alike:
        raise ConfigError(
            f"backbone {name}: layers {','.join(map(str, layers))} are stages of different grids, which cannot stand "
            "side by side; choose one"
        )


class Pixels(nn.Module):
    """The normalisation of pixels: uint8 RGB to what a network was trained on, float32."""

    mean: Float[Tensor, " 3"]
    std: Float[Tensor, " 3"]

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        self.rescale = normalisation.rescale
        self.register_buffer("mean", torch.tensor(normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std), persistent=False)

    @property
    def white(self) -> float:
        """What a pixel of 255 is before the mean is taken off: 1 where RGB is scaled to [0, 1], as usual."""
        return 255 * self.rescale

    def forward(self, frames: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
        """Return `(rescale · frames − mean) / std`."""
        return (frames.float() * self.rescale - self.mean[:, None, None]) / self.std[:, None, None]


class FrozenNetwork(nn.Module):
    """The network of a backbone, as its family makes it; a subclass brings `forward`."""

    prefix: int = 0
    """Tokens that it makes before those of the patches, and leaves out: class, registers."""

    def forward(self, frames: UInt8[Tensor, "B *T 3 H W"]) -> Float[Tensor, "B *S P D"]:
        """Return the features of every patch of uint8 RGB frames, without class, register or other tokens.

        It takes frames `(B, 3, H, W)` and returns `(B, P, D)`; where its facts have several frames in a step, clips
        `(B, T, 3, H, W)` of whole steps, and returns `(B, T/f, P, D)`.

        It normalises the pixels as its weights expect them. How many other tokens there are it reads from the model,
        and whether `P` is rows × columns its caller checks. It runs in eval mode, without gradients, perhaps under
        autocast to bfloat16 or inside of torch.compile.
        """
        raise NotImplementedError

    def arrange(self, height: int, width: int, device: torch.device) -> None:
        """Rearrange the layers as a GPU and the compiler like them, for frames of this size; called for every size.

        The features stay the same up to rounding. What is not written for speed leaves this out.
        """

    def final_norm(self) -> nn.LayerNorm | None:
        """Return the norm that made the features, which the RGB head undoes; None where there is none."""
        return None

    def normalisation(self) -> Pixels | None:
        """Return the normalisation of pixels, which the RGB head undoes; None where it cannot be undone."""
        return None


@dataclass(frozen=True)
class Outline:
    """What is known of a backbone that was only named: enough to say what it costs."""

    dim: int
    patch_size: int
    network: Callable[[int], FrozenNetwork]
    """Takes a depth, returns a network with so many of its blocks and starting weights; called under torch's meta
    device, where it takes no memory."""
    depth: int = 1
    """Its blocks, which all cost the same: what one and two of them cost tells the rest. 1 where they don't: then
    `network` returns the whole whatever it takes."""
    layers: tuple[Outline, ...] = ()
    """What each layer alone is, from the first, where they differ in more than their depth."""
    frames_per_step: int = 1
    """Frames that become one step of features."""

    def choosing(self, choice: LayerChoice, name: str) -> Outline:
        """Return the outline of the network up to the last chosen layer, as wide as all of them.

        Raises:
            ConfigError: it is known to have no such layers; `name` is the backbone's.
        """
        if choice.layers is None:
            return self
        if self.layers:
            check_layers(name, choice, len(self.layers), alike=False)
            return self.layers[choice.layers[0] - 1]
        if self.depth > 1:
            check_layers(name, choice, self.depth)
        return replace(self, dim=self.dim * len(choice.layers), depth=min(max(choice.layers), self.depth))


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of backbone."""

    name: str
    """As `--backbone NAME:FOLDER` takes it: lower case, no spaces."""
    title: str
    """As its makers write it."""
    model_types: tuple[str, ...]
    """What `model_type` in config.json is for the folders of this family; none where they are only known by `NAME:`."""
    sign: str | None = None
    """A key of config.json by which folders without `model_type` are known."""
    facts: Callable[[ModelFolder], BackboneFacts]
    """Takes a model folder, returns what its files say. Raises CheckpointError if it is not whole. Imports no
    network."""
    load: Callable[[ModelFolder], FrozenNetwork]
    """Takes a model folder that has facts, returns the network, float32 on the CPU. Raises CheckpointError if a
    parameter is missing or left over."""
    chooses_layers: bool = False
    """Whether `facts` and `load` regard the folder's `choice`; a name with options is refused where they don't."""
    outline: Callable[[str, Mapping[str, Any]], Outline | None] = lambda name, config: None  # noqa: ARG005
    """Takes the last part of a Hub name or path, and what config.json says where the folder is here (else nothing);
    returns what both tell, None where that is nothing. Without it a plan counts the work of a DINOv3 ViT-B."""

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this config.json is of this family."""
        if "model_type" in config:
            return config["model_type"] in self.model_types
        return self.sign is not None and self.sign in config
