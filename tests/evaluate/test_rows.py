"""What the rows of the table predict, from the features of a few clips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from evaluations import GOLDEN
from golden_vectors import awake
from jaxtyping import Float
from plain_networks import reconstruct
from torch import Tensor

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.evaluate.protocol.extras import noise, spread_of
from deltactl.evaluate.protocol.futures import draw_queries
from deltactl.evaluate.protocol.predictions import Batch, Diversity, Prediction, Row, feature_loss
from deltactl.evaluate.protocol.rows import Models, predictions
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DINOWORLD

GRID, PATCHES, DIM, FRAMES = (4, 4), 16, 128, 7
SAMPLES, CONTEXT = 5, 4


@pytest.fixture(scope="module", params=["the published way", "four narrow tokens a frame"])
def models(request: pytest.FixtureRequest) -> Models:
    dinoworld = load(GOLDEN / "dinoworld.bin", DINOWORLD)
    if request.param == "the published way":
        return Models(load(GOLDEN / "deltatok.bin", TOKENIZER), load(GOLDEN / "deltaworld.bin", WORLD), dinoworld)
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=DIM, depth=1, tokens_per_frame=4, token_dim=32))).eval()
    world = awake(DeltaWorld(DeltaWorldConfig(token_dim=32, width=64, depth=1, heads=1, tokens_per_frame=4)))
    return Models(tokenizer, world.eval(), dinoworld)


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(3, 1, PATCHES, DIM, generator=generator)
    steps = 0.3 * torch.randn(3, FRAMES, PATCHES, DIM, generator=generator)
    return Batch(
        keys=("a", "b", "c"),
        views=(0, 1, 0),
        features=start + steps.cumsum(dim=1),
        times=torch.arange(FRAMES, dtype=torch.float32).mul(0.2).add(3.0).expand(3, -1),
        black=torch.randn(PATCHES, DIM, generator=generator),
        grid=GRID,
    )


def settings(horizons: Sequence[int] = (1, 3), **changes: object) -> EvaluateConfig:
    values = {"horizons": tuple(horizons), "samples": SAMPLES, "context": CONTEXT, **changes}
    return EvaluateConfig(**values)


def collect(batch: Batch, models: Models, config: EvaluateConfig) -> tuple[dict[Row, Prediction], list[Diversity]]:
    found: dict[Row, Prediction] = {}
    spread: list[Diversity] = []
    with torch.inference_mode():
        for prediction in predictions(batch, models, config):
            if isinstance(prediction, Diversity):
                spread.append(prediction)
                continue
            for row in prediction.rows:
                assert row not in found, f"{row} is predicted twice"
                found[row] = prediction
    return found, spread


def row(method: str, horizon: int, step: int, select: str = "") -> Row:
    return Row("rows", method, horizon, step, select)


def test_each_horizon_has_one_prediction_a_step_about_the_last_frames(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1, 3)))
    for method, select in (("present", ""), ("copy_last", ""), ("deltatok", ""), ("dinoworld", ""),
                           ("deltaworld", "best"), ("deltaworld", "mean"), ("noise_null", "best")):  # fmt: skip
        frames = {
            (each.horizon, each.step): prediction.frame
            for each, prediction in found.items()
            if (each.table, each.method, each.select) == ("rows", method, select)
        }
        assert frames == {(1, 1): 6, (3, 1): 4, (3, 2): 5, (3, 3): 6}, method


def test_present_is_the_truth_and_copy_last_the_last_context_frame(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1, 3)))
    assert torch.equal(found[row("present", 3, 2)].features, batch.features[:, 5])
    assert found[row("present", 3, 2)].losses["log_cosh"].tolist() == [0.0, 0.0, 0.0]
    for step in (1, 2, 3):
        assert torch.equal(found[row("copy_last", 3, step)].features, batch.features[:, 3])
    expected = feature_loss("smooth_l1", batch.features[:, 3], batch.features[:, 6])
    assert torch.equal(found[row("copy_last", 3, 3)].losses["smooth_l1"], expected)


@pytest.mark.parametrize("encoding", ["sequential", "parallel"])
def test_deltatok_reconstructs_as_the_tokenizer_does_alone(batch: Batch, models: Models, encoding: str) -> None:
    assert models.tokenizer is not None
    found, _ = collect(batch, models, settings((1, 3, FRAMES), encoding=encoding))
    for horizon in (1, 3, FRAMES):
        with torch.inference_mode():
            alone = reconstruct(models.tokenizer, batch.features, GRID, horizon, batch.black, encoding)
        for step in range(horizon):
            torch.testing.assert_close(found[row("deltatok", horizon, step + 1)].features, alone[:, step])


def futures_of(batch: Batch, models: Models, horizon: int) -> Float[Tensor, "B S H P D"]:
    """Return the futures that the definition gives, clip by clip, with the context as a clip of its own."""
    assert models.tokenizer is not None
    assert models.world is not None
    start, first = FRAMES - horizon - CONTEXT, FRAMES - horizon
    futures = []
    for index, (key, view) in enumerate(zip(batch.keys, batch.views, strict=True)):
        clip = batch.features[index : index + 1, start:first]
        times = batch.times[index : index + 1]
        queries = draw_queries(
            seed=0, key=key, view=view, samples=SAMPLES, horizon=horizon, width=models.world.config.width
        )
        tokens = models.tokenizer.encode_clip(clip, batch.black, GRID)
        futures.append(
            models.world.rollout(
                tokens, times[:, start:first], times[:, first:], clip[:, -1], models.tokenizer, GRID, queries[None]
            )
        )
    return torch.cat(futures)


@pytest.mark.parametrize("horizon", [1, 3])
def test_deltaworld_keeps_the_sample_with_the_least_loss_at_the_last_frame(
    batch: Batch, models: Models, horizon: int
) -> None:
    found, _ = collect(batch, models, settings((1, 3)))
    futures = futures_of(batch, models, horizon)
    last = batch.features[:, -1, None].expand_as(futures[:, :, -1])
    best = feature_loss("smooth_l1", futures[:, :, -1], last).argmin(dim=1)
    assert len(set(best.tolist())) > 1, "these clips should not agree on the best sample by chance"
    for step in range(horizon):
        chosen = futures[torch.arange(3), best, step]
        torch.testing.assert_close(found[row("deltaworld", horizon, step + 1, "best")].features, chosen)
        mean = futures[:, :, step].mean(dim=1)
        torch.testing.assert_close(found[row("deltaworld", horizon, step + 1, "mean")].features, mean)


def test_dinoworld_rolls_out_from_the_context(batch: Batch, models: Models) -> None:
    assert models.dinoworld is not None
    found, _ = collect(batch, models, settings((2,)))
    with torch.inference_mode():
        alone = models.dinoworld.rollout(batch.features[:, 1:5], batch.times[:, 1:5], batch.times[:, 5:], GRID)
    for step in (1, 2):
        torch.testing.assert_close(found[row("dinoworld", 2, step)].features, alone[:, step - 1], rtol=1e-4, atol=1e-5)


def test_rows_need_their_networks(batch: Batch, models: Models) -> None:
    methods = {each.method for each in collect(batch, Models(), settings())[0]}
    assert methods == {"present", "copy_last"}
    methods = {each.method for each in collect(batch, Models(tokenizer=models.tokenizer), settings())[0]}
    assert methods == {"present", "copy_last", "deltatok"}
    methods = {each.method for each in collect(batch, Models(world=models.world), settings())[0]}
    assert methods == {"present", "copy_last"}


def test_horizons_beyond_the_clip_have_only_what_needs_no_context(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1, 5), extras=False))
    assert {each.method for each in found if each.horizon == 5} == {"present", "deltatok"}


def test_a_pair_of_frames_is_encoded_once_for_all_rows(
    batch: Batch, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = 0
    encode = DeltaTok.encode

    def counting(self: DeltaTok, previous: Tensor, current: Tensor, grid: tuple[int, int]) -> Tensor:
        nonlocal encoded
        encoded += len(current)
        return encode(self, previous, current, grid)

    monkeypatch.setattr(DeltaTok, "encode", counting)
    collect(batch, models, settings((1, 3), extras=False))
    # Horizon 3: black→0, 0→1, 1→2, 2→3. Horizon 1: black→2, 2→3 again, 3→4, 4→5. DeltaTok: 5→6; 3→4 again, and two
    # frames against reconstructions.
    assert encoded == 10 * len(batch.keys)


# --- beyond the published protocol -----------------------------------------------------------------------------------


def test_the_best_of_more_samples_is_never_worse(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1, 3), samples=20))
    for horizon in (1, 3):
        by_k = [
            found[Row("best_of_k", "deltaworld", horizon, horizon, "best", k)].losses["smooth_l1"]
            for k in (1, 2, 5, 10, 20)
        ]
        for fewer, more in itertools.pairwise(by_k):
            assert bool((more <= fewer).all())
        assert torch.equal(by_k[-1], found[row("deltaworld", horizon, horizon, "best")].losses["smooth_l1"])


def test_best_of_k_is_of_the_samples_there_are(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1,), samples=7))
    assert sorted(each.k for each in found if each.table == "best_of_k") == [1, 2, 5]


def test_diversity_is_the_mean_distance_of_two_samples_beside_that_to_the_truth(batch: Batch, models: Models) -> None:
    _, spread = collect(batch, models, settings((3,)))
    futures = futures_of(batch, models, 3)
    assert [(each.horizon, each.step) for each in spread] == [(3, 1), (3, 2), (3, 3)]
    for step, each in enumerate(spread):
        samples = futures[:, :, step]
        pairs = [feature_loss("smooth_l1", samples[:, i], samples[:, j]) for i in range(5) for j in range(i)]
        torch.testing.assert_close(each.pairwise, torch.stack(pairs).mean(dim=0), rtol=1e-3, atol=1e-12)
        truth = [feature_loss("smooth_l1", samples[:, i], batch.features[:, 4 + step]) for i in range(5)]
        torch.testing.assert_close(each.to_truth, torch.stack(truth).mean(dim=0))


def test_the_drift_goes_as_far_as_the_clip(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((1,), context=2))
    drift = {(each.method, each.step) for each in found if each.table == "drift"}
    assert {step for method, step in drift if method == "deltatok"} == set(range(1, 7))
    for method in ("copy_last", "deltaworld", "dinoworld"):
        assert {step for name, step in drift if name == method} == set(range(1, 6))
    assert all(each.measure == "smooth_l1" for each in found if each.table == "drift")


def test_without_extras_there_are_the_published_rows_alone(batch: Batch, models: Models) -> None:
    found, spread = collect(batch, models, settings((1, 3), extras=False))
    assert {each.table for each in found} == {"rows"}
    assert "noise_null" not in {each.method for each in found}
    assert not spread


def test_the_noise_null_is_copy_last_with_a_little_noise_chosen_by_the_last_frame(batch: Batch, models: Models) -> None:
    found, _ = collect(batch, models, settings((3,), samples=20))
    futures_spread = futures_of(batch, models, 3).std(dim=1)
    for step in (1, 2, 3):
        added = found[row("noise_null", 3, step, "best")].features - batch.features[:, 3]
        ratio = added.square().mean().sqrt() / futures_spread[:, step - 1].square().mean().sqrt()
        assert 0.3 < ratio < 3
    null = found[row("noise_null", 3, 3, "best")].losses["smooth_l1"]
    copied = found[row("copy_last", 3, 3)].losses["smooth_l1"]
    assert bool((null < copied).all()), "the best of 20 gains a little by choosing"


def test_the_noise_has_the_samples_own_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, 6, 2, 3, generator=generator) * torch.tensor([0.1, 1.0, 5.0])
    flat = samples.reshape(6, 6)
    weights = torch.randn(1, 200_000, 6, generator=generator)
    deviations = spread_of(samples.clone())
    drawn = noise(deviations.expand(200_000, -1, -1, -1), weights[0]).reshape(200_000, 6)
    wanted = torch.cov(flat.T)
    scale = wanted.diagonal().sqrt()
    error = (torch.cov(drawn.T) - wanted) / (scale[:, None] * scale)
    assert error.abs().max() < 0.02


def test_one_sample_has_neither_spread_nor_noise_null(batch: Batch, models: Models) -> None:
    found, spread = collect(batch, models, settings((1,), samples=1))
    assert not spread
    assert "noise_null" not in {each.method for each in found}
    assert torch.equal(found[row("deltaworld", 1, 1, "best")].features, found[row("deltaworld", 1, 1, "mean")].features)
