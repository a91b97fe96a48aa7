"""On a GPU the networks meet the golden vectors too, and bf16 stays near them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from golden_vectors import BAR, GRID, cases, dinoworld, distance, tokenizer, world
from torch import Tensor

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["float32", "bfloat16"])
def bar(request: pytest.FixtureRequest) -> Iterator[float]:
    """The distance allowed, inside autocast where that is bf16's."""
    if request.param == "float32":
        yield BAR
    else:
        with torch.autocast("cuda", torch.bfloat16):
            yield 2e-2


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in cases().items()}


def test_tokens_and_reconstructions(bar: float, golden: dict[str, Tensor]) -> None:
    network, features = tokenizer().cuda(), golden["features"]
    z = network.encode(features[:, 0], features[:, 1], GRID)
    assert distance(z, golden["encode.z"]) < bar
    assert distance(network.decode(z, features[:, 0], GRID), golden["decode.y_hat"]) < bar


def test_the_best_of_many_and_its_gradients(bar: float, golden: dict[str, Tensor]) -> None:
    network = world().cuda()
    result = network(golden["world.tokens"][:, :, None], golden["timestamps"], golden["bom.queries"])
    result.loss.backward()
    assert distance(result.loss[None], golden["bom.loss"]) < bar
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    if bar == BAR:
        assert torch.equal(result.kept_queries, golden["bom.kept"])


def test_rollouts(bar: float, golden: dict[str, Tensor]) -> None:
    times, features = golden["timestamps"], golden["features"]
    found = (
        world()
        .cuda()
        .rollout(
            golden["world.tokens"][:, :3, None],
            times[:, :3],
            times[:, 3:],
            features[:, 2],
            tokenizer().cuda(),
            GRID,
            golden["rollout.queries"],
        )
    )
    assert distance(found, golden["rollout.pred"]) < bar


def test_the_baseline(bar: float, golden: dict[str, Tensor]) -> None:
    network, features, times = dinoworld().cuda(), golden["features"], golden["timestamps"]
    assert distance(network(features, times, GRID), golden["dinoworld.train_pred"]) < bar
    found = network.rollout(features[:, :3], times[:, :3], times[:, 3:], GRID)
    assert distance(found, golden["dinoworld.rollout"][:, 0]) < bar
