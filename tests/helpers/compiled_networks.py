"""Run every network plainly and compiled, and print as JSON how far the two are apart.

    JAXTYPING_DISABLE=1 python tests/helpers/compiled_networks.py aot_eager|inductor NETWORK…

A program of its own, because the tests' check of shapes in signatures is a wrapper that torch.compile cannot trace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from golden_vectors import awake, distance
from torch import Tensor, nn

from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig, draw_queries
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig
from deltactl.train.networks.losses import log_cosh, smooth_l1

GRID = (3, 5)
TIMES = 0.2 * torch.arange(4.0).expand(2, 4)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def apart(backend: str, build: Callable[[], nn.Module], step: Callable[[nn.Module], list[Tensor]]) -> float:
    """Largest distance between what `step` returns, and the gradients it leaves, plainly and compiled as one graph."""
    results = []
    for compiled in (False, True):
        network = awake(build())
        torch.manual_seed(3)
        outputs = step(torch.compile(network, backend=backend, fullgraph=True) if compiled else network)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        results.append(outputs + gradients)
    plain, found = results
    assert len(plain) == len(found)
    return max(distance(b, a) for a, b in zip(plain, found, strict=True))


def tokenizer_step(network: nn.Module) -> list[Tensor]:
    x, y = noise(2, 2, 15, 128)
    rebuilt = network(x, y, GRID)
    log_cosh(rebuilt, y).backward()
    return [rebuilt.detach()]


def world_step(network: nn.Module) -> list[Tensor]:
    result = network(
        noise(2, 4, network.config.tokens_per_frame, 64),
        TIMES,
        draw_queries(torch.Generator().manual_seed(2), 2, 3, 6, 128),
    )
    result.loss.backward()
    return [result.loss.detach(), result.kept + 1, result.mean_loss, result.spread]


def dinoworld_step(network: nn.Module) -> list[Tensor]:
    features = noise(2, 4, 15, 64)
    predicted = network(features, TIMES, GRID)
    smooth_l1(predicted, features[:, 1:]).backward()
    return [predicted.detach()]


def rollout_apart(backend: str) -> float:
    world = awake(DeltaWorld(DeltaWorldConfig(token_dim=128, width=128, depth=1, heads=2)))
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=1))).eval()
    args = (noise(2, 2, 1, 128), TIMES[:, :2], TIMES[:, 2:], noise(2, 15, 128), tokenizer, GRID, noise(2, 3, 2, 128))
    return distance(torch.compile(world.rollout, backend=backend)(*args), world.rollout(*args))


SMALL = DeltaTokConfig(width=128, depth=1)
NARROW = DeltaTokConfig(width=128, depth=1, tokens_per_frame=4, token_dim=32)
WORLD = DeltaWorldConfig(token_dim=64, width=128, depth=1, heads=2)
BASELINE = DinoWorldConfig(feature_dim=64, width=128, depth=1, heads=2)

NETWORKS: dict[str, Callable[[str], float]] = {
    "training tokenizer": lambda backend: apart(backend, lambda: DeltaTok(SMALL).train(), tokenizer_step),
    "frozen tokenizer": lambda backend: apart(backend, lambda: DeltaTok(SMALL).eval(), tokenizer_step),
    "tokenizer of four tokens": lambda backend: apart(backend, lambda: DeltaTok(NARROW).train(), tokenizer_step),
    "best of many": lambda backend: apart(backend, lambda: DeltaWorld(WORLD), world_step),
    "best of many, four tokens": lambda backend: apart(
        backend, lambda: DeltaWorld(replace(WORLD, tokens_per_frame=4)), world_step
    ),
    "baseline": lambda backend: apart(backend, lambda: DinoWorld(BASELINE), dinoworld_step),
    "rollout": rollout_apart,
}


def main(backend: str, *names: str) -> None:
    found = {name: NETWORKS[name](backend) for name in names}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(names), "something was not compiled"
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
