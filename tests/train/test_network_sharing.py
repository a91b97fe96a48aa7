"""Repeated work is done once: keys and values, positions, and what the backward pass needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from golden_vectors import awake
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig, draw_queries
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig

WORLD = DeltaWorldConfig(token_dim=64, width=128, depth=3, heads=2)


@contextmanager
def rows_through(network: nn.Module, layer: str) -> Iterator[Counter[str]]:
    """Count the vectors that pass through every layer whose name ends with `layer`."""
    rows: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda _, inputs, __, name=name: rows.update({name: inputs[0].shape[:-1].numel()}))
        for name, module in network.named_modules()
        if name.endswith(layer)
    ]
    yield rows
    for hook in hooks:
        hook.remove()


class Cosines(TorchDispatchMode):
    """Counts how often cosines are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.cos.default
        return func(*args, **(kwargs or {}))


def world_inputs(tries: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 4, 1, 64, generator=generator)
    return tokens, 0.2 * torch.arange(4.0).expand(2, 4), draw_queries(generator, 2, 3, tries, 128)


def test_all_tries_and_the_step_with_gradients_share_one_set_of_keys_and_values() -> None:
    world = awake(DeltaWorld(WORLD))
    with rows_through(world, "kv_proj") as rows, rows_through(world, "q_proj") as queries:
        world(*world_inputs(tries=16))
    assert len(rows) == 3
    assert set(rows.values()) == {2 * 3}  # each of 3 tokens a prediction may see, once per clip and layer
    assert set(queries.values()) == {2 * 3}  # of the step with gradients alone: the search projects the keys instead


def test_samples_share_the_context_and_each_new_token_joins_once() -> None:
    world = awake(DeltaWorld(WORLD))
    tokens, times, queries = world_inputs(tries=5)
    targets = times[:, :3] + 1
    with rows_through(world, "kv_proj") as rows:
        world.rollout_tokens(tokens, times, targets, queries.transpose(1, 2))
    assert set(rows.values()) == {2 * 4 + 2 * 5 * 2}  # the context once, then two of three new tokens per sample


def test_the_baseline_remembers_frames_once_in_training_and_rollout() -> None:
    world = awake(DinoWorld(DinoWorldConfig(feature_dim=64, width=128, depth=2, heads=2)))
    features, times = torch.randn(2, 4, 6, 64), 0.2 * torch.arange(4.0).expand(2, 4)
    with rows_through(world, "kv_proj") as rows:
        world(features, times, (2, 3))
    assert set(rows.values()) == {2 * 3 * 6}
    with rows_through(world, "kv_proj") as rows:
        world.rollout(features[:, :2], times[:, :2], times[:, 1:], (2, 3))
    assert set(rows.values()) == {2 * (2 + 2) * 6}


def test_positions_are_computed_once_for_all_layers_heads_and_tries() -> None:
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=3))).train()
    x, y = torch.randn(2, 1, 6, 128)
    with Cosines() as cosines:
        tokenizer(x, y, (2, 3))
    assert cosines.count == 1
    world = awake(DeltaWorld(WORLD))
    with Cosines() as cosines:
        world(*world_inputs(tries=16))
    assert cosines.count == 1


def test_decoding_a_clip_computes_positions_once() -> None:
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=3))).eval()
    with Cosines() as cosines:
        tokenizer.decode_clip(torch.randn(1, 3, 1, 128), torch.randn(1, 6, 128), (2, 3))
    assert cosines.count == 1


def test_the_encoders_last_block_computes_its_token_only() -> None:
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=3))).eval()
    x, y = torch.randn(2, 5, 6, 128)
    with rows_through(tokenizer, "down_proj") as rows:
        tokenizer.encode(x, y, (2, 3))
    assert rows == {
        "encoder_blocks.0.mlp.down_proj": 5 * 13,
        "encoder_blocks.1.mlp.down_proj": 5 * 13,
        "encoder_blocks.2.mlp.down_proj": 5,
    }


def test_asking_a_block_for_one_token_gives_the_same_token() -> None:
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=1))).eval()
    rotation = tokenizer.rope((2, 3), torch.device("cpu"))
    sequence = torch.randn(5, 7, 128)
    block = tokenizer.encoder_blocks[0]
    torch.testing.assert_close(block(sequence, rotation, outputs=1), block(sequence, rotation)[:, :1])


@pytest.mark.parametrize("tries", [8, 64])
def test_what_the_backward_pass_keeps_does_not_grow_with_the_tries(tries: int) -> None:
    def kept_bytes(tries: int) -> int:
        world, sizes = awake(DeltaWorld(WORLD)), []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            world(*world_inputs(tries))
        return sum(sizes)

    assert kept_bytes(tries) == kept_bytes(1)


def test_only_the_loss_carries_gradients() -> None:
    result = awake(DeltaWorld(WORLD))(*world_inputs(tries=4))
    assert result.loss.requires_grad
    others = (result.kept_queries, result.best_loss, result.mean_loss, result.spread)
    assert not any(each.requires_grad for each in others)
