"""DeltaWorld meets the golden vectors and its definition; best of many keeps the best."""

from __future__ import annotations

import pytest
import torch
from golden_vectors import BAR, GRID, awake, cases, distance, tokenizer, weights_of, world
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import world_predict, world_rollout
from torch import Tensor

from deltactl.train.networks import deltaworld, predictor
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig, draw_queries
from deltactl.train.networks.losses import smooth_l1
from deltactl.train.networks.predictor import folding_pays

# Tokens and queries of different widths, so that none is taken for the other.
TINY = DeltaWorldConfig(token_dim=64, width=128, depth=2, heads=2)


def network() -> DeltaWorld:
    return awake(DeltaWorld(TINY))


def clip(frames: int = 4, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = 0.04 + 0.29 * torch.rand(batch, frames, generator=generator)
    return torch.randn(batch, frames, 1, 64, generator=generator), steps.cumsum(1) - steps[:, :1]


def tries(count: int, frames: int = 3, batch: int = 2) -> Tensor:
    return 5 * draw_queries(torch.Generator().manual_seed(2), batch, frames, count, 128)


def test_predictions_meet_the_golden_vectors() -> None:
    golden = cases()
    found = world().predict(golden["world.tokens"][:, :, None], golden["timestamps"], golden["predictor.queries"])
    assert distance(found[:, :, 0], golden["predictor.out"]) < BAR


def test_the_best_of_many_is_the_golden_one() -> None:
    golden = cases()
    result = world()(golden["world.tokens"][:, :, None], golden["timestamps"], golden["bom.queries"])
    assert torch.equal(result.kept_queries, golden["bom.kept"])
    assert distance(result.loss[None], golden["bom.loss"]) < BAR


def test_rollouts_meet_the_golden_vectors() -> None:
    golden = cases()
    times, features = golden["timestamps"], golden["features"]
    found = world().rollout(
        golden["world.tokens"][:, :3, None],
        times[:, :3],
        times[:, 3:],
        features[:, 2],
        tokenizer(),
        GRID,
        golden["rollout.queries"],
    )
    assert distance(found, golden["rollout.pred"]) < BAR
    losses = torch.stack([smooth_l1(s[-1], features[b, 5]) for b in range(2) for s in found[b]]).view(2, 5)
    assert torch.equal(losses.argmin(1), golden["rollout.best"])


def test_parameter_names_and_their_order_are_the_published_ones() -> None:
    assert list(world().state_dict()) == list(weights_of("deltaworld"))


def test_vit_b_has_86_million_parameters() -> None:
    with torch.device("meta"):
        large = DeltaWorld()
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(85.7e6, abs=0.1e6)


def test_predictions_follow_the_definition() -> None:
    model, (tokens, times), queries = network(), clip(), tries(2)
    expected = world_predict(model.state_dict(), tokens, times, queries)
    for k in range(2):
        assert distance(model.predict(tokens, times, queries[:, :, k]), expected[:, :, k]) < 1e-5


def test_rollouts_follow_the_definition() -> None:
    model, (tokens, times) = network(), clip(frames=5)
    queries = tries(3, frames=3).transpose(1, 2)
    expected = world_rollout(model.state_dict(), tokens[:, :2], times[:, :2], times[:, 2:], queries)
    found = model.rollout_tokens(tokens[:, :2], times[:, :2], times[:, 2:], queries)
    assert distance(found, expected) < 1e-5


def test_a_query_sees_the_tokens_of_earlier_frames_only() -> None:
    model, (tokens, times), queries = network(), clip(), tries(1)[:, :, 0]
    before = model.predict(tokens, times, queries)
    for t in range(4):
        changed = tokens.clone()
        changed[:, t] += 1
        after = model.predict(changed, times, queries)
        assert torch.equal(after[:, :t], before[:, :t])  # frames 1 to t do not see token t
        assert not (t < 3 and torch.isclose(after[:, t:], before[:, t:]).all(-1).any())


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 6), frames=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_kept_query_has_the_least_loss(count: int, frames: int, seed: int) -> None:
    model, (tokens, times) = network(), clip(frames)
    queries = draw_queries(torch.Generator().manual_seed(seed), 2, frames - 1, count, 128)
    result = model(tokens, times, queries)
    each = torch.stack([model.predict(tokens, times, queries[:, :, k]) for k in range(count)], dim=2)
    target = tokens[:, 1:, None].expand_as(each)
    losses = torch.nn.functional.smooth_l1_loss(each, target, beta=0.1, reduction="none").mean((-2, -1))
    torch.testing.assert_close(result.best_loss, losses.min(-1).values)
    torch.testing.assert_close(result.mean_loss, losses.mean(-1))
    torch.testing.assert_close(result.spread, each.std(dim=2, correction=0).mean((-2, -1)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.loss, result.best_loss.mean())
    kept = losses.gather(-1, result.kept[..., None])[..., 0]
    torch.testing.assert_close(kept, losses.min(-1).values)
    picked = queries.gather(2, result.kept[..., None, None].expand(-1, -1, 1, 128))[:, :, 0]
    assert torch.equal(result.kept_queries, picked)


def test_the_gradient_is_that_of_predicting_with_the_kept_queries() -> None:
    model, (tokens, times) = network(), clip()
    result = model(tokens, times, tries(5))
    result.loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    smooth_l1(model.predict(tokens, times, result.kept_queries), tokens[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_under_autocast_the_search_does_not_take_the_gradients_away() -> None:
    model, (tokens, times) = network(), clip()
    with torch.autocast("cpu", torch.bfloat16):
        result = model(tokens, times, tries(5))
    result.loss.backward()
    exact = network()
    smooth_l1(exact.predict(tokens, times, result.kept_queries), tokens[:, 1:]).backward()
    assert result.loss.dtype == torch.float32
    for (name, parameter), reference in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert reference.grad is not None
        similarity = torch.cosine_similarity(parameter.grad.flatten(), reference.grad.flatten(), dim=0)
        assert similarity > 0.98, name


def test_autocast_stays_within_two_hundredths_of_float32() -> None:
    model, (tokens, times), queries = network(), clip(), tries(1)[:, :, 0]
    with torch.autocast("cpu", torch.bfloat16):
        found = model.predict(tokens, times, queries)
    assert distance(found, model.predict(tokens, times, queries)) < 2e-2


def test_searching_a_few_tries_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (tokens, times), queries = network(), clip(), tries(7)
    whole = model(tokens, times, queries)
    frames = queries.shape[1]
    for rows in (2 * frames, 7 * frames):  # two of one clip's seven tries at once; one whole clip of two
        monkeypatch.setattr(deltaworld, "SEARCH_ROWS", {"cpu": rows})
        parts = model(tokens, times, queries)
        assert torch.equal(whole.kept, parts.kept)
        torch.testing.assert_close(whole.best_loss, parts.best_loss)
        torch.testing.assert_close(whole.spread, parts.spread)


def test_moving_the_projections_to_the_tokens_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (tokens, times), queries = network(), clip(), tries(32)
    assert folding_pays(group=32, length=tokens.shape[1] - 1, width=model.config.width)
    folded = model(tokens, times, queries)
    monkeypatch.setattr(predictor, "folding_pays", lambda **_: False)
    plain = model(tokens, times, queries)
    assert torch.equal(folded.kept, plain.kept)
    torch.testing.assert_close(folded.best_loss, plain.best_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(folded.spread, plain.spread, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("group", "length", "pays"),
    [
        (256, 7, True),  # the tries of a frame
        (1, 7, False),  # the step with gradients, a rollout
        (256, 7 * 256, False),  # the baseline's patches, which see as many as there are in the frames before
    ],
)
def test_projections_move_to_the_tokens_where_queries_are_many_and_tokens_few(
    group: int, length: int, pays: bool
) -> None:
    assert folding_pays(group=group, length=length, width=768) is pays


def test_samples_rolled_out_a_few_at_a_time_are_the_same() -> None:
    model, (tokens, times) = network(), clip(frames=4)
    queries = tries(5, frames=2).transpose(1, 2)
    args = (tokens[:, :2], times[:, :2], times[:, 2:])
    whole = model.rollout_tokens(*args, queries)
    parts = [model.rollout_tokens(*args, some) for some in queries.split(2, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_a_rollout_is_its_tokens_decoded_and_keeps_no_gradients() -> None:
    model, (tokens, times) = network(), clip(frames=4)
    decoder = awake(DeltaTok(DeltaTokConfig(width=64, depth=1))).eval()
    queries, last = tries(3, frames=2).transpose(1, 2), torch.randn(2, 15, 64)
    args = (tokens[:, :2], times[:, :2], times[:, 2:])
    found = model.rollout(*args, last, decoder, (3, 5), queries)
    future = model.rollout_tokens(*args, queries)
    assert found.shape == (2, 3, 2, 15, 64)
    assert not found.requires_grad
    assert not future.requires_grad
    for sample in range(3):
        expected = decoder.decode_clip(future[:, sample], last, (3, 5))
        torch.testing.assert_close(found[:, sample], expected)


def test_a_rollout_refuses_a_tokenizer_in_train_mode() -> None:
    model, (tokens, times) = network(), clip()
    decoder = DeltaTok(DeltaTokConfig(width=64, depth=1)).train()
    queries = tries(1, frames=1).transpose(1, 2)
    with pytest.raises(ValueError, match="train mode"):
        model.rollout(tokens[:, :3], times[:, :3], times[:, 3:], torch.randn(2, 4, 64), decoder, (2, 2), queries)


def test_queries_are_small_noise_of_an_explicit_generator() -> None:
    queries = draw_queries(torch.Generator().manual_seed(0), 8, 7, 16, 64)
    assert queries.shape == (8, 7, 16, 64)
    assert queries.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(queries.mean().item()) < 1e-3
    assert torch.equal(queries, draw_queries(torch.Generator().manual_seed(0), 8, 7, 16, 64))
    assert not torch.equal(queries, draw_queries(torch.Generator().manual_seed(1), 8, 7, 16, 64))


def test_sizes_that_do_not_fit_are_refused_by_name_and_value() -> None:
    with pytest.raises(ValueError, match="heads is 12, but a predictor of width 128 has 2 heads of 64"):
        DeltaWorldConfig(width=128)
    with pytest.raises(ValueError, match="width is 100, expected a positive multiple of 64"):
        DeltaWorldConfig(width=100, heads=2)
    with pytest.raises(ValueError, match="depth is 0"):
        DeltaWorldConfig(depth=0)
