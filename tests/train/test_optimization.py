"""The optimizer: what is decayed, the warm-up, and that settings win over what a checkpoint restores."""

import pytest
import torch

from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead
from deltactl.train.steps.optimization import (
    OptimizerConfig,
    build_optimizer,
    decayed_parameters,
    set_layer_scales,
    set_step,
)

SETTINGS = OptimizerConfig(lr=1e-3, weight_decay=0.4, warmup_steps=10)


def test_only_weights_of_linear_and_convolution_layers_decay():
    decayed, plain = decayed_parameters(DeltaTok(DeltaTokConfig(width=64, depth=1)))
    assert {name.rpartition(".")[2] for name, _ in decayed} == {"weight"}
    assert all("proj" in name or "attn_gate" in name for name, _ in decayed)
    assert {"z_embed.weight", "xy_embed.weight", "norm.weight", "encoder_blocks.0.layer_scale1.lambda1"} <= {
        name for name, _ in plain
    }
    decayed, plain = decayed_parameters(SegmentationHead(LinearHeadConfig(8, 3)))
    assert [name for name, _ in decayed] == ["head.weight"]
    assert {name for name, _ in plain} == {"bn.weight", "bn.bias", "head.bias"}


def test_the_learning_rate_rises_in_a_straight_line_and_then_stays():
    rates = [SETTINGS.lr_at(step) for step in (0, 1, 5, 10, 11, 10**6)]
    assert rates == pytest.approx([0, 1e-4, 5e-4, 1e-3, 1e-3, 1e-3])
    assert OptimizerConfig(1e-3, 0.0, 0).lr_at(0) == 1e-3


def test_a_cool_down_ends_at_0_with_the_run():
    settings = OptimizerConfig(lr=1e-3, weight_decay=0.4, warmup_steps=10, cooldown_steps=20, steps=100)
    rates = [settings.lr_at(step) for step in (5, 10, 79, 80, 90, 99, 100)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 5e-4, 5e-5, 0])
    overlapping = OptimizerConfig(lr=1.0, weight_decay=0.0, warmup_steps=4, cooldown_steps=4, steps=6)
    assert [overlapping.lr_at(step) for step in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 0.5, 0.25])


def test_restored_states_follow_the_new_settings():
    network = DeltaTok(DeltaTokConfig(width=64, depth=1))
    old = build_optimizer(network, SETTINGS)
    new = build_optimizer(network, OptimizerConfig(1e-5, 0.1, 0))
    new.load_state_dict(old.state_dict())
    set_step(new, OptimizerConfig(1e-5, 0.1, 0), 500)
    assert [(group["lr"], group["weight_decay"]) for group in new.param_groups] == [(1e-5, 0.1), (1e-5, 0.0)]


def test_layer_scales_start_where_the_settings_say():
    network = DeltaTok(DeltaTokConfig(width=64, depth=1))
    set_layer_scales(network, 0.1)
    scales = [parameter for name, parameter in network.named_parameters() if "layer_scale" in name]
    assert len(scales) == 4
    assert all(torch.equal(scale, torch.full_like(scale, 0.1)) for scale in scales)
