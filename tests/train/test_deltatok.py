"""DeltaTok meets the golden vectors, and its definition with each switch on and off."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from golden_vectors import BAR, GOLDEN, GRID, awake, cases, distance, tokenizer, weights_of
from plain_networks import reconstruct, tokenizer_decode, tokenizer_encode
from torch import Tensor

from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.losses import log_cosh

TINY = DeltaTokConfig(width=128, depth=2)
WIDE = (3, 5)
"""A grid that is not square."""

SWITCHES = ["delta", "qk_norm", "gated_attention", "swiglu", "rope_augment"]


def pair(batch: int = 2, grid: tuple[int, int] = WIDE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, batch, grid[0] * grid[1], 128, generator=generator)
    return x, y


@pytest.fixture(scope="module")
def golden_cases() -> dict[str, Tensor]:
    return cases()


@pytest.fixture(scope="module")
def black() -> Tensor:
    """The black frame's features, (16, 128)."""
    return Backbone.load(GOLDEN / "backbone", device="cpu").black_features(64, 64)


def test_a_token_and_its_decoding_meet_the_golden_vectors(golden_cases: dict[str, Tensor]) -> None:
    network, features = tokenizer(), golden_cases["features"]
    z = network.encode(features[:, 0], features[:, 1], GRID)
    assert distance(z, golden_cases["encode.z"]) < BAR
    assert distance(network.decode(z, features[:, 0], GRID), golden_cases["decode.y_hat"]) < BAR
    assert distance(network(features[:, 0], features[:, 1], GRID), golden_cases["decode.y_hat"]) < BAR


@pytest.mark.parametrize("horizon", [1, 3, 6])
def test_reconstructions_meet_the_golden_vectors(horizon: int, golden_cases: dict[str, Tensor], black: Tensor) -> None:
    found = reconstruct(tokenizer(), golden_cases["features"], GRID, horizon, black)
    assert distance(found, golden_cases[f"tokenizer.h{horizon}.pred"]) < BAR


def test_tokens_of_a_clip_meet_the_golden_vectors(golden_cases: dict[str, Tensor], black: Tensor) -> None:
    found = tokenizer().encode_clip(golden_cases["features"], black, GRID)
    assert distance(found[:, :, 0], golden_cases["world.tokens"]) < BAR


def test_parameter_names_and_their_order_are_the_published_ones() -> None:
    assert list(DeltaTok(TINY).state_dict()) == list(weights_of("deltatok"))


def test_vit_b_has_170_million_parameters() -> None:
    with torch.device("meta"):
        network = DeltaTok()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(170.4e6, abs=0.1e6)
    assert network.encoder_blocks[0].mlp.gate_proj.out_features == 2048


@pytest.mark.parametrize("off", [None, *SWITCHES])
def test_every_switch_follows_the_definition_on_frames_that_are_not_square(off: str | None) -> None:
    config = replace(TINY, **{off: False}) if off else TINY
    network = awake(DeltaTok(config)).eval()
    weights, (x, y) = network.state_dict(), pair()
    z = network.encode(x, y, WIDE)
    assert distance(z, tokenizer_encode(weights, x, y, WIDE, config.delta)) < 1e-5
    assert distance(network.decode(z, x, WIDE), tokenizer_decode(weights, z, x, WIDE, config.delta)) < 1e-5


@pytest.mark.parametrize("off", [None, *SWITCHES])
def test_training_draws_one_rescaling_for_encoder_and_decoder_unless_switched_off(off: str | None) -> None:
    config = replace(TINY, **{off: False}) if off else TINY
    network = awake(DeltaTok(config)).train()
    weights, (x, y) = network.state_dict(), pair()
    torch.manual_seed(7)
    factor = torch.empty(1).uniform_(-math.log(2), math.log(2)).exp().item() if config.rope_augment else 1.0
    z = tokenizer_encode(weights, x, y, WIDE, config.delta, factor)
    expected = tokenizer_decode(weights, z, x, WIDE, config.delta, factor)
    torch.manual_seed(7)
    assert distance(network(x, y, WIDE), expected) < 1e-5


@pytest.mark.parametrize(
    ("off", "absent"),
    [("qk_norm", "q_norm"), ("gated_attention", "attn_gate"), ("swiglu", "gate_proj")],
)
def test_a_part_that_is_switched_off_has_no_parameters(off: str, absent: str) -> None:
    keys = DeltaTok(replace(TINY, **{off: False})).state_dict()
    assert not any(absent in key for key in keys)
    assert set(keys) < set(DeltaTok(TINY).state_dict())


def test_without_delta_the_previous_frame_is_never_seen() -> None:
    network = awake(DeltaTok(replace(TINY, delta=False))).eval()
    x, y = pair()
    z = network.encode(x, y, WIDE)
    assert torch.equal(z, network.encode(y, y, WIDE))
    assert torch.equal(network.decode(z, x, WIDE), network.decode(z, y, WIDE))


def test_parallel_reconstruction_encodes_against_true_frames() -> None:
    network = awake(DeltaTok(TINY)).eval()
    features = torch.randn(2, 4, 15, 128)
    weights = network.state_dict()
    rebuilt = features[:, 0]
    for t in range(1, 4):
        z = tokenizer_encode(weights, features[:, t - 1], features[:, t], WIDE)
        rebuilt = tokenizer_decode(weights, z, rebuilt, WIDE)
        found = reconstruct(network, features, WIDE, 3, encoding="parallel")[:, t - 1]
        assert distance(found, rebuilt) < 1e-5


def test_decoding_a_clip_goes_on_from_its_own_frames() -> None:
    network = awake(DeltaTok(TINY)).eval()
    x, tokens = pair()[0], torch.randn(2, 3, 1, 128)
    first = network.decode(tokens[:, 0], x, WIDE)
    second = network.decode(tokens[:, 1], first, WIDE)
    third = network.decode(tokens[:, 2], second, WIDE)
    expected = torch.stack((first, second, third), dim=1)
    torch.testing.assert_close(network.decode_clip(tokens, x, WIDE), expected)


def test_at_its_start_the_decoder_nearly_returns_the_previous_frame() -> None:
    torch.manual_seed(0)
    network, (x, y) = DeltaTok(TINY), pair()
    assert distance(network(x, y, WIDE), x) < 1e-3
    weights = dict(network.named_parameters())
    assert all((weights[key] == 1e-5).all() for key in weights if "layer_scale" in key)
    assert all((weights[key] == 0).all() for key in weights if key.endswith("bias"))
    spread = weights["encoder_blocks.0.mlp.up_proj.weight"].std().item()
    assert spread == pytest.approx(0.02, rel=0.05)
    assert weights["xy_embed.weight"].std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("off", [None, *SWITCHES])
def test_every_parameter_gets_a_finite_gradient(off: str | None) -> None:
    network = awake(DeltaTok(replace(TINY, **{off: False}) if off else TINY)).train()
    x, y = pair()
    log_cosh(network(x, y, WIDE), y).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_following_a_clip_keeps_no_gradients() -> None:
    network, features = awake(DeltaTok(TINY)).eval(), torch.randn(1, 3, 15, 128)
    tokens = network.encode_clip(features, features[0, 0], WIDE)
    assert not tokens.requires_grad
    assert not network.decode_clip(tokens, features[:, 0], WIDE).requires_grad


def test_autocast_stays_within_two_hundredths_of_float32() -> None:
    network, (x, y) = awake(DeltaTok(TINY)).eval(), pair()
    with torch.autocast("cpu", torch.bfloat16):
        z = network.encode(x, y, WIDE)
        rebuilt = network.decode(z, x, WIDE)
    assert distance(z, network.encode(x, y, WIDE)) < 2e-2
    assert distance(rebuilt, network(x, y, WIDE)) < 2e-2


def test_stored_half_precision_features_are_taken_as_they_are() -> None:
    network, (x, y) = awake(DeltaTok(TINY)).eval(), pair()
    clip = torch.stack((x, y), dim=1).half()
    tokens = network.encode_clip(clip, x[0], WIDE)
    assert tokens.dtype == torch.float32
    assert distance(tokens, network.encode_clip(clip.float(), x[0].half().float(), WIDE)) < 1e-5


def test_a_clip_is_not_followed_with_random_positions() -> None:
    network, features = DeltaTok(TINY).train(), torch.randn(1, 3, 15, 128)
    with pytest.raises(ValueError, match=r"train mode.*call \.eval\(\) first"):
        network.encode_clip(features, features[0, 0], WIDE)
    with pytest.raises(ValueError, match="train mode"):
        network.decode_clip(torch.randn(1, 1, 1, 128), features[:, 0], WIDE)


def test_misuse_is_refused_by_name_and_value() -> None:
    network, (x, y) = DeltaTok(TINY).eval(), pair()
    with pytest.raises(ValueError, match="features have 15 patches, but a grid of 4 × 4 was given"):
        network.encode(x, y, (4, 4))
    with pytest.raises(ValueError, match="features are 64 wide, but this tokenizer was built for 128"):
        network.encode(x[..., :64], y[..., :64], WIDE)
    with pytest.raises(ValueError, match="width is 100, expected a positive multiple of 64"):
        DeltaTokConfig(width=100)
    with pytest.raises(ValueError, match="depth is 0"):
        DeltaTokConfig(depth=0)


@pytest.mark.parametrize("width", [4, 32, 60])
def test_narrower_features_than_a_head_have_one_of_their_width(width: int) -> None:
    network = DeltaTok(DeltaTokConfig(width=width, depth=1)).eval()
    previous, current = torch.randn(2, 3, 6, width)
    assert network(previous, current, (2, 3)).shape == current.shape
    assert network.encode(previous, current, (2, 3)).shape == (3, 1, width)


@pytest.mark.parametrize("width", [0, 6, 66])
def test_a_width_that_heads_do_not_fill_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width}, expected a positive multiple of 64, or of 4 below that"):
        DeltaTokConfig(width=width)
