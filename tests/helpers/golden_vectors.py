"""The golden vectors and the networks of their tiny published-format weights, and how far two tensors are apart."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig

Network = TypeVar("Network", bound=nn.Module)

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = (4, 4)
BAR = 1e-4
"""Largest difference allowed, relative to the largest reference value."""


def cases() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


def weights_of(name: str) -> dict[str, Tensor]:
    return torch.load(GOLDEN / f"{name}.bin", weights_only=True)


def filled(network: Network, name: str) -> Network:
    network.load_state_dict(weights_of(name))
    return network.eval()


def tokenizer() -> DeltaTok:
    return filled(DeltaTok(DeltaTokConfig(width=128, depth=2)), "deltatok")


def world() -> DeltaWorld:
    return filled(DeltaWorld(DeltaWorldConfig(token_dim=128, width=128, depth=2, heads=2)), "deltaworld")


def dinoworld() -> DinoWorld:
    return filled(DinoWorld(DinoWorldConfig(feature_dim=128, width=128, depth=2, heads=2)), "dinoworld")


def awake(network: Network, seed: int = 0) -> Network:
    """Give a network random weights under which every part matters (at their start, layer scales hide most)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layer_scale" in name:
                parameter.copy_(0.5 + 0.1 * noise)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim > 1 and "embed" not in name:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.2 * noise)
    return network


def distance(found: Tensor, expected: Tensor) -> float:
    """Return max|Δ| / max|expected|; shapes must be equal."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    return ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item()
