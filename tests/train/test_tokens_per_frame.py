"""Networks of several tokens a frame, and of tokens of another width than the features, follow their definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_vectors import awake, distance
from plain_networks import tokenizer_decode, tokenizer_encode, world_predict, world_rollout
from safetensors.torch import load_file
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.networks import deltaworld, predictor
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld, DeltaWorldConfig, draw_queries
from deltactl.train.networks.losses import log_cosh, smooth_l1
from deltactl.train.networks.predictor import folding_pays

GRID = (3, 5)
SIZES = [(1, None), (1, 32), (4, None), (4, 32), (4, 192)]
"""Tokens of a frame and their width; None is that of the features, 128."""
WIDE = DeltaWorldConfig(token_dim=32, width=128, depth=2, heads=2, tokens_per_frame=4)


def tokenizer(count: int, dim: int | None) -> DeltaTok:
    return awake(DeltaTok(DeltaTokConfig(width=128, depth=2, tokens_per_frame=count, token_dim=dim)))


def frames() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 2, 15, 128, generator=torch.Generator().manual_seed(1))
    return x, y


def world(config: DeltaWorldConfig = WIDE) -> DeltaWorld:
    return awake(DeltaWorld(config))


def clip(length: int = 4, config: DeltaWorldConfig = WIDE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = 0.04 + 0.29 * torch.rand(2, length, generator=generator)
    tokens = torch.randn(2, length, config.tokens_per_frame, config.token_dim, generator=generator)
    return tokens, steps.cumsum(1) - steps[:, :1]


def draws(count: int, length: int = 3) -> Tensor:
    return 5 * draw_queries(torch.Generator().manual_seed(2), 2, length, count, 128)


# --- the tokenizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_the_tokenizer_follows_the_definition(count: int, dim: int | None) -> None:
    network, (x, y) = tokenizer(count, dim).eval(), frames()
    weights = network.state_dict()
    z = network.encode(x, y, GRID)
    assert z.shape == (2, count, dim or 128)
    assert distance(z, tokenizer_encode(weights, x, y, GRID)) < 1e-5
    assert distance(network.decode(z, x, GRID), tokenizer_decode(weights, z, x, GRID)) < 1e-5


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_the_tokenizer_learns_to_reconstruct_through_its_tokens(count: int, dim: int | None) -> None:
    torch.manual_seed(0)
    network, (x, y) = DeltaTok(DeltaTokConfig(width=128, depth=1, tokens_per_frame=count, token_dim=dim)), frames()
    for name, parameter in network.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.constant_(parameter, 0.1)
    optimizer, losses = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(20):
        loss = log_cosh(network(x, y, GRID), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(each.grad is not None and each.grad.any() for each in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_every_token_changes_every_patch_and_none_is_turned() -> None:
    network, (x, y) = tokenizer(4, 32).eval(), frames()
    z = network.encode(x, y, GRID)
    whole = network.decode(z, x, GRID)
    for number in range(4):
        other = z.clone()
        other[:, number] += 1
        assert not torch.isclose(network.decode(other, x, GRID), whole).all(-1).any()
    shuffled = network.decode(z[:, [2, 0, 3, 1]], x, GRID)
    assert distance(shuffled, whole) < 1e-5  # a set to the decoder: it gives tokens no place


def test_tokens_that_are_as_wide_as_features_need_no_layer() -> None:
    same = DeltaTokConfig(width=128, depth=1, token_dim=128)
    assert same == DeltaTokConfig(width=128, depth=1)
    assert list(DeltaTok(same).state_dict()) == list(DeltaTok(DeltaTokConfig(width=128, depth=1)).state_dict())
    narrowed = DeltaTok(replace(same, token_dim=32)).state_dict()
    assert narrowed["to_token.weight"].shape == (32, 128)
    assert narrowed["from_token.weight"].shape == (128, 32)
    assert narrowed["to_token.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert not narrowed["from_token.bias"].any()


def test_tokens_of_other_sizes_are_refused_with_both() -> None:
    network, (x, _) = tokenizer(4, 32).eval(), frames()
    with pytest.raises(ValueError, match="a frame has 1 tokens of width 32, expected 4 of 32"):
        network.decode(torch.randn(2, 1, 32), x, GRID)
    with pytest.raises(ValueError, match="a frame has 4 tokens of width 128, expected 4 of 32"):
        network.decode_clip(torch.randn(2, 3, 4, 128), x, GRID)
    model, (tokens, times) = world(), clip()
    with pytest.raises(ValueError, match="a frame has 3 tokens of width 32, expected 4 of 32"):
        model(tokens[:, :, :3], times, draws(2))
    for sizes in ({"tokens_per_frame": 0}, {"token_dim": 0}):
        with pytest.raises(ValueError, match="is 0, expected"):
            DeltaTokConfig(**sizes)
    with pytest.raises(ValueError, match="tokens_per_frame is 0"):
        DeltaWorldConfig(tokens_per_frame=0)


# --- the world model -------------------------------------------------------------------------------------------------


def test_predictions_follow_the_definition() -> None:
    model, (tokens, times), queries = world(), clip(), draws(3)
    expected = world_predict(model.state_dict(), tokens, times, queries)
    for number in range(3):
        assert distance(model.predict(tokens, times, queries[:, :, number]), expected[:, :, number]) < 1e-5


def test_a_training_step_follows_the_definition() -> None:
    model, (tokens, times), queries = world(), clip(), draws(24)
    assert folding_pays(group=4 * 24, length=4 * 3, width=128)
    expected = world_predict(model.state_dict(), tokens, times, queries)
    target = tokens[:, 1:, None].expand_as(expected)
    losses = torch.nn.functional.smooth_l1_loss(expected, target, beta=0.1, reduction="none").mean((-2, -1))
    result = model(tokens, times, queries)
    assert torch.equal(result.kept, losses.argmin(-1))
    assert distance(result.best_loss, losses.amin(-1)) < 1e-5
    assert distance(result.mean_loss, losses.mean(-1)) < 1e-5
    assert distance(result.spread, expected.std(dim=2, correction=0).mean((-2, -1))) < 1e-4
    assert distance(result.loss[None], losses.amin(-1).mean()[None]) < 1e-5
    # The best future of a frame, not each token's best: these come from different draws.
    of_tokens = torch.nn.functional.smooth_l1_loss(expected, target, beta=0.1, reduction="none").mean(-1)
    assert not torch.equal(of_tokens.argmin(2), result.kept[..., None].expand(-1, -1, 4))


def test_rollouts_follow_the_definition() -> None:
    model, (tokens, times) = world(), clip(5)
    queries = draws(3).transpose(1, 2)
    args = (tokens[:, :2], times[:, :2], times[:, 2:], queries)
    found = model.rollout_tokens(*args)
    assert found.shape == (2, 3, 3, 4, 32)
    assert distance(found, world_rollout(model.state_dict(), *args)) < 1e-5


def test_a_future_of_features_is_its_tokens_decoded() -> None:
    model, (tokens, times) = world(), clip(4)
    decoder, last = tokenizer(4, 32).eval(), frames()[0]
    args = (tokens[:, :2], times[:, :2], times[:, 2:])
    queries = draws(3, 2).transpose(1, 2)
    found, future = model.rollout(*args, last, decoder, GRID, queries), model.rollout_tokens(*args, queries)
    for sample in range(3):
        torch.testing.assert_close(found[:, sample], decoder.decode_clip(future[:, sample], last, GRID))


def test_the_gradient_is_that_of_predicting_with_the_kept_queries() -> None:
    model, (tokens, times) = world(), clip()
    result = model(tokens, times, draws(5))
    result.loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    smooth_l1(model.predict(tokens, times, result.kept_queries), tokens[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)
        assert parameter.grad is not None
        assert parameter.grad.any(), name


def test_at_its_start_a_network_tells_no_tokens_apart_and_learns_to() -> None:
    torch.manual_seed(0)
    model, (tokens, times), queries = DeltaWorld(WIDE), clip(), draws(1)[:, :, 0]
    assert model.token_embed is not None
    assert not model.token_embed.weight.any()
    predicted = model.predict(tokens, times, queries)
    for number in range(1, 4):
        torch.testing.assert_close(predicted[:, :, number], predicted[:, :, 0])
    smooth_l1(predicted, tokens[:, 1:]).backward()
    assert model.token_embed.weight.grad is not None
    assert model.token_embed.weight.grad.any(1).all()
    assert DeltaWorld(replace(WIDE, tokens_per_frame=1)).token_embed is None


def test_all_tokens_of_a_frame_see_all_tokens_of_earlier_frames_and_no_others() -> None:
    model, (tokens, times), queries = world(), clip(), draws(1)[:, :, 0]
    before = model.predict(tokens, times, queries)
    for frame in range(4):
        for number in range(4):
            changed = tokens.clone()
            changed[:, frame, number] += 1
            after = model.predict(changed, times, queries)
            assert torch.equal(after[:, :frame], before[:, :frame])
            assert not torch.isclose(after[:, frame:], before[:, frame:]).all(-1).any()


def test_the_embedding_acts_on_keys_and_not_on_values() -> None:
    model, (tokens, times) = world(), clip()
    rotation = deltaworld.time_rotation(times)
    marked = model._remember(tokens, rotation)
    plain = model.predictor.remember(tokens, rotation)
    for layer in range(2):
        assert torch.equal(marked.values[layer], plain.values[layer])
        assert not torch.isclose(marked.keys[layer], plain.keys[layer]).all(-1).any()


def test_searching_a_few_tries_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (tokens, times), queries = world(), clip(), draws(7)
    seen: list[int] = []
    for block in model.predictor.blocks[:1]:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:3].numel()))
    whole = model(tokens, times, queries)
    for rows in (2 * 3 * 4, 7 * 3 * 4):
        monkeypatch.setattr(deltaworld, "SEARCH_ROWS", {"cpu": rows})
        seen.clear()
        parts = model(tokens, times, queries)
        assert max(seen) == rows  # what passes at once is counted in tokens
        assert torch.equal(whole.kept, parts.kept)
        torch.testing.assert_close(whole.best_loss, parts.best_loss)
        torch.testing.assert_close(whole.spread, parts.spread)


def test_moving_the_projections_to_the_tokens_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DeltaWorldConfig(token_dim=32, width=192, depth=2, heads=3, tokens_per_frame=2)
    model, (tokens, times) = world(config), clip(config=config)
    queries = 5 * draw_queries(torch.Generator().manual_seed(2), 2, 3, 32, 192)
    decisions: list[bool] = []

    def decide(**sizes: int) -> bool:
        decisions.append(folding_pays(**sizes))
        return decisions[-1]

    monkeypatch.setattr(predictor, "folding_pays", decide)
    folded = model(tokens, times, queries)
    assert any(decisions)
    monkeypatch.setattr(predictor, "folding_pays", lambda **_: False)
    plain = model(tokens, times, queries)
    assert torch.equal(folded.kept, plain.kept)
    torch.testing.assert_close(folded.best_loss, plain.best_loss, rtol=1e-4, atol=0)


# --- as files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_sizes_are_read_from_the_weights(count: int, dim: int | None, tmp_path: Path) -> None:
    network = tokenizer(count, dim)
    torch.save(network.state_dict(), tmp_path / "tokenizer.bin")
    assert read(tmp_path / "tokenizer.bin").config == network.config
    model = world(replace(WIDE, tokens_per_frame=count, token_dim=dim or 128))
    torch.save(model.state_dict(), tmp_path / "world.bin")
    assert read(tmp_path / "world.bin").config == model.config
    loaded = load(tmp_path / "world.bin", WORLD)
    assert network_hash(loaded) == network_hash(model) == read(tmp_path / "world.bin").content_hash


def test_headers_and_hashes_of_published_sizes_say_nothing_new() -> None:
    network, model = tokenizer(1, None), world(replace(WIDE, tokens_per_frame=1))
    assert not {"tokens_per_frame", "token_dim"} & header_of(network)["config"].keys()
    assert "tokens_per_frame" not in header_of(model)["config"]
    assert header_of(tokenizer(4, 32))["config"].items() >= {"tokens_per_frame": 4, "token_dim": 32}.items()
    assert header_of(world())["config"]["tokens_per_frame"] == 4
    kinds = {TOKENIZER: ["tokens_per_frame 4 (published: 1)", "token_dim 32 (published: none)"]}
    for kind, phrases in kinds.items():
        config = replace(kind.default, tokens_per_frame=4, token_dim=32)
        assert list(kind.differences(config)) == phrases
    assert WORLD.differences(replace(WORLD.default, tokens_per_frame=4)) == ("tokens_per_frame 4 (published: 1)",)


@pytest.mark.parametrize(("said", "value"), [({"tokens_per_frame": 1, "token_dim": None}, 1), ({}, 1)])
def test_a_header_may_say_the_default_or_nothing(said: dict[str, object], value: int, tmp_path: Path) -> None:
    network = tokenizer(1, None)
    header = header_of(network)
    header["config"].update(said)
    torch.save({"state_dict": network.state_dict(), "deltactl": header}, tmp_path / "said.ckpt")
    assert read(tmp_path / "said.ckpt").config.tokens_per_frame == value


def test_a_header_must_not_contradict_the_weights(tmp_path: Path) -> None:
    network = tokenizer(4, 32)
    header = header_of(network)
    header["config"]["tokens_per_frame"] = 8
    torch.save({"state_dict": network.state_dict(), "deltactl": header}, tmp_path / "said.ckpt")
    with pytest.raises(CheckpointError, match="its header says tokens_per_frame = 8, its weights 4"):
        read(tmp_path / "said.ckpt")


def test_an_export_has_the_published_names_and_the_new_ones_and_says_so(tmp_path: Path) -> None:
    network = tokenizer(4, 32)
    torch.save({"state_dict": network.state_dict(), "deltactl": header_of(network)}, tmp_path / "run.ckpt")
    export(tmp_path / "run.ckpt", tmp_path / "out")
    published = set(tokenizer(1, None).state_dict())
    bare = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    new = {f"{name}_token.{part}" for name in ("to", "from") for part in ("weight", "bias")}
    assert set(bare) == published | new == set(load_file(tmp_path / "out" / "model.safetensors"))
    for name in ("pytorch_model.bin", "model.safetensors"):
        again = load(tmp_path / "out" / name, TOKENIZER)
        assert again.config == network.config
        assert network_hash(again) == network_hash(network)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| tokens_per_frame | 4 |" in card
    assert "Published code does not read these weights" in card
    assert "`from_token.bias`, `from_token.weight`, `to_token.bias`, `to_token.weight`" in card
    torch.save(tokenizer(1, None).state_dict(), tmp_path / "plain.bin")
    export(tmp_path / "plain.bin", tmp_path / "plain")
    assert "Published code" not in (tmp_path / "plain" / "README.md").read_text()
