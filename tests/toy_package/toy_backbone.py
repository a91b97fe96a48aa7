"""A family of backbones: one layer of patches of 8 pixels, 32 channels, with a class token in front of them.

A folder has config.json (`model_type` toy_patches, `channels`, `patch_size`) and model.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deltactl.featurize.backbones.family import BackboneFacts, Family, FrozenNetwork, Outline, Pixels
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1 / 255)


class ToyPatches(FrozenNetwork):
    """A patch embedding, squashed."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.pixels = Pixels(NORMALISATION)
        self.embedding = nn.Conv2d(3, channels, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(channels))

    def tokens(self, frames: Tensor) -> Tensor:
        """Return the class token and the patches."""
        patches = self.embedding(self.pixels(frames)).flatten(2).mT.tanh()
        return torch.cat((self.class_token.expand(len(frames), 1, -1), patches), dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the patches."""
        return self.tokens(frames)[:, 1:]


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder says."""
    settings = {name: folder.config[name] for name in ("model_type", "channels", "patch_size")}
    return BackboneFacts(settings["channels"], settings["patch_size"], settings, folder.weight_files())


def load(folder: ModelFolder) -> ToyPatches:
    """Return the network of a folder."""
    network = ToyPatches(folder.config["channels"], folder.config["patch_size"])
    with folder.as_checkpoint_error():
        network.load_state_dict(load_file(folder.path / "model.safetensors"))
    return network


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return what a config says; of names the toys say nothing."""
    if not config:
        return None
    channels, patch = config["channels"], config["patch_size"]
    return Outline(channels, patch, lambda depth: ToyPatches(channels, patch))


TOY = Family(name="toy", title="Toy", model_types=("toy_patches",), facts=facts, load=load, outline=outline)


def make_folder(place: str, channels: int = 32, patch: int = 8) -> None:
    """Make a folder of a network with random weights."""
    folder = Path(place)
    folder.mkdir()
    torch.manual_seed(0)
    save_file(ToyPatches(channels, patch).state_dict(), folder / "model.safetensors")
    config = {"model_type": "toy_patches", "channels": channels, "patch_size": patch}
    (folder / "config.json").write_text(json.dumps(config))
