"""Predicts what every row of the paper's table is about (arXiv 2604.04913), from the features of a batch of clips.

- *present*: the true features, which nothing can beat. *copy last*: those of the last context frame.
- *DeltaTok* reconstructs: from one context frame on (or from the black frame, when the horizon is the whole clip), each
  next frame is encoded against the previous reconstruction and decoded from it. With `parallel` encoding the tokens
  come from the true frames.
- *DeltaWorld* predicts tokens of samples; *best* is the sample with the least loss at the last frame of the horizon,
  *mean* the mean of all samples' features.
- *DINO-world* predicts features directly.

Horizon `h` is over the last `h` frames of the clip, after as many context frames as the row takes. Predictions are
yielded one by one: only one is held besides the samples of one horizon.

B batch · S samples · H horizon · P patches · D feature width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.evaluate.protocol import extras
from deltactl.evaluate.protocol.futures import draw_queries, sample_futures
from deltactl.evaluate.protocol.memory import AtOnce
from deltactl.evaluate.protocol.predictions import (
    Batch,
    Diversity,
    Method,
    Prediction,
    Row,
    feature_loss,
    predict_frame,
)
from deltactl.evaluate.protocol.tokens import BLACK, Pair, PairTokens, clip_pairs
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld
from deltactl.train.networks.dinoworld import DinoWorld


@dataclass(frozen=True)
class Models:
    """The networks at hand; the rows of those that are None are left out. DeltaWorld's need the tokenizer too."""

    tokenizer: DeltaTok | None = None
    world: DeltaWorld | None = None
    dinoworld: DinoWorld | None = None


def predictions(
    batch: Batch, models: Models, config: EvaluateConfig, at_once: AtOnce | None = None
) -> Iterator[Prediction | Diversity]:
    """Yield every prediction that the rows ask for, in a fixed order; call it under `torch.inference_mode()`.

    `at_once`: how many samples run at once, where that is to be remembered from batch to batch.
    """
    yield from present(batch, config)
    yield from copy_last(batch, config)
    if models.tokenizer is not None:
        pairs = reconstruction_pairs(config)
        if models.world is not None:
            pairs |= context_pairs(config)
        tokens = PairTokens(models.tokenizer, batch, pairs)
        yield from deltatok(batch, models.tokenizer, tokens, config)
        if models.world is not None:
            yield from deltaworld(batch, models.world, models.tokenizer, tokens, config, at_once)
    if models.dinoworld is not None:
        yield from dinoworld(batch, models.dinoworld, config)


def forecast_horizons(config: EvaluateConfig) -> list[int]:
    """Return the horizons that leave the rows with `context` frames that many frames to start from."""
    return [horizon for horizon in config.horizons if horizon + config.context <= config.frames]


def _rollouts(config: EvaluateConfig) -> list[int]:
    """Return the horizons to roll out: those of the rows, and the longest there is, for the drift per step."""
    longest = [config.frames - config.context] if config.extras else []
    return sorted({*forecast_horizons(config), *longest})


def _reconstructions(config: EvaluateConfig) -> list[int]:
    """Return the horizons to reconstruct: those of the rows, and all frames after the first, for the drift."""
    longest = [config.frames - 1] if config.extras else []
    return sorted({*config.horizons, *longest})


def _rows(
    method: Method, horizon: int, step: int, config: EvaluateConfig, select: str = "", draw: int = 0
) -> tuple[Row, ...]:
    """Return the rows of one step of a rollout: of the paper's table where asked for, and of the drift table."""
    asked = config.horizons if method == "deltatok" else forecast_horizons(config)
    longest = config.frames - (1 if method == "deltatok" else config.context)
    rows = [Row("rows", method, horizon, step, select, draw=draw)] if horizon in asked else []
    if config.extras and horizon == longest:
        rows.append(Row("drift", method, horizon, step, select, draw=draw))
    return tuple(rows)


def reconstruction_pairs(config: EvaluateConfig) -> set[Pair]:
    """Return the pairs of true frames whose tokens DeltaTok's rows need."""
    pairs: set[Pair] = set()
    for horizon in _reconstructions(config):
        first = config.frames - horizon
        last = config.frames if config.encoding == "parallel" else first + 1
        pairs |= {(frame - 1 if frame else BLACK, frame) for frame in range(first, last)}
    return pairs


def context_pairs(config: EvaluateConfig) -> set[Pair]:
    """Return the pairs of frames whose tokens DeltaWorld's contexts are made of."""
    pairs: set[Pair] = set()
    for horizon in _rollouts(config):
        pairs |= set(clip_pairs(config.frames - horizon - config.context, config.frames - horizon))
    return pairs


def present(batch: Batch, config: EvaluateConfig) -> Iterator[Prediction]:
    """Yield the true features of every frame that a horizon reaches."""
    for frame in range(batch.frames - max(config.horizons), batch.frames):
        rows = tuple(
            Row("rows", "present", horizon, frame - (batch.frames - horizon) + 1)
            for horizon in config.horizons
            if frame >= batch.frames - horizon
        )
        yield predict_frame(batch, rows, frame, batch.features[:, frame])


def copy_last(batch: Batch, config: EvaluateConfig) -> Iterator[Prediction]:
    """Yield the last context frame's features as the prediction of every step."""
    for horizon in _rollouts(config):
        first = batch.frames - horizon
        for step in range(1, horizon + 1):
            rows = _rows("copy_last", horizon, step, config)
            yield predict_frame(batch, rows, first + step - 1, batch.features[:, first - 1])


def deltatok(batch: Batch, tokenizer: DeltaTok, tokens: PairTokens, config: EvaluateConfig) -> Iterator[Prediction]:
    """Yield the reconstructions of every horizon, step by step."""
    for horizon in _reconstructions(config):
        first = batch.frames - horizon
        black = batch.black.expand(len(batch.keys), -1, -1)
        previous = batch.features[:, first - 1] if first else black
        for frame in range(first, batch.frames):
            if config.encoding == "parallel" or frame == first:
                token = tokens.pair(frame - 1 if frame else BLACK, frame)
            else:
                token = tokenizer.encode(previous, batch.features[:, frame], batch.grid)
            previous = tokenizer.decode(token, previous, batch.grid)
            yield predict_frame(batch, _rows("deltatok", horizon, frame - first + 1, config), frame, previous)


def deltaworld(
    batch: Batch,
    world: DeltaWorld,
    tokenizer: DeltaTok,
    tokens: PairTokens,
    config: EvaluateConfig,
    at_once: AtOnce | None = None,
) -> Iterator[Prediction | Diversity]:
    """Yield what the samples of every horizon amount to, from each seed."""
    for draw, seed in enumerate(config.sampler_seeds):
        seeded = config.model_copy(update={"seed": seed})
        for horizon in _rollouts(config):
            futures = sample_horizon(batch, world, tokenizer, tokens, seeded, horizon, at_once)
            yield from _predictions_of_samples(batch, futures, seeded, draw)


def sample_horizon(
    batch: Batch,
    world: DeltaWorld,
    tokenizer: DeltaTok,
    tokens: PairTokens,
    config: EvaluateConfig,
    horizon: int,
    at_once: AtOnce | None = None,
) -> Float[Tensor, "B S H P D"]:
    """Return DeltaWorld's samples of one horizon; `tokens` has those of its context (`context_pairs`)."""
    first = batch.frames - horizon
    start = first - config.context
    times = _times_since(batch, start)
    width = world.config.width
    queries = [
        draw_queries(seed=config.seed, key=key, view=view, samples=config.samples, horizon=horizon, width=width)
        for key, view in zip(batch.keys, batch.views, strict=True)
    ]
    return sample_futures(
        world,
        tokenizer,
        tokens=tokens.clip(start, first),
        times=times[:, start:first],
        target_times=times[:, first:],
        last=batch.features[:, first - 1],
        grid=batch.grid,
        queries=torch.stack(queries),
        at_once=at_once,
    )


def _predictions_of_samples(
    batch: Batch, futures: Float[Tensor, "B S H P D"], config: EvaluateConfig, draw: int
) -> Iterator[Prediction | Diversity]:
    """Yield what is made of the samples of one horizon; changes `futures` at the end.

    The tables of best of k and of the diversity are of the first seed alone.
    """
    samples, horizon = futures.shape[1:3]
    first = batch.frames - horizon
    true = batch.features[:, first:]
    losses = sample_losses(futures, true)
    best = losses[:, :, -1].argmin(dim=1)
    for step in range(1, horizon + 1):
        frame = first + step - 1
        rows = _rows("deltaworld", horizon, step, config, "best", draw)
        if config.extras and not draw and step == horizon and samples in extras.BEST_OF and horizon in config.horizons:
            rows += (extras.best_of_row(horizon, samples),)
        yield predict_frame(batch, rows, frame, choose(futures[:, :, step - 1], best))
        rows = _rows("deltaworld", horizon, step, config, "mean", draw)
        yield predict_frame(batch, rows, frame, futures[:, :, step - 1].mean(dim=1))
    if not config.extras or horizon not in config.horizons:
        return
    for k in extras.BEST_OF if draw == 0 else ():
        if k < samples:
            chosen = choose(futures[:, :, -1], losses[:, :k, -1].argmin(dim=1))
            yield predict_frame(batch, (extras.best_of_row(horizon, k),), batch.frames - 1, chosen)
    if samples > 1:
        if draw == 0:
            yield from extras.diversity(futures, losses)
        yield from extras.noise_null(batch, futures, config.seed, draw)


def dinoworld(batch: Batch, dinoworld: DinoWorld, config: EvaluateConfig) -> Iterator[Prediction]:
    """Yield the rollout of every horizon, step by step."""
    for horizon in _rollouts(config):
        first = batch.frames - horizon
        start = first - config.context
        times = _times_since(batch, start)
        predicted = dinoworld.rollout(
            batch.features[:, start:first], times[:, start:first], times[:, first:], batch.grid
        )
        for step in range(1, horizon + 1):
            rows = _rows("dinoworld", horizon, step, config)
            yield predict_frame(batch, rows, first + step - 1, predicted[:, step - 1])


def _times_since(batch: Batch, start: int) -> Float[Tensor, "B T"]:
    return (batch.times - batch.times[:, start : start + 1]).float()


def sample_losses(futures: Float[Tensor, "B S H P D"], true: Float[Tensor, "B H P D"]) -> Float[Tensor, "B S H"]:
    """Return the smooth-L1 of every sample at every step, float64."""
    each = [feature_loss("smooth_l1", sample, true) for sample in futures.unbind(dim=1)]
    return torch.stack(each, dim=1)


def choose(samples: Float[Tensor, "B S P D"], index: Int[Tensor, " B"]) -> Float[Tensor, "B P D"]:
    """Return the sample that `index` names for each item."""
    return samples[torch.arange(len(samples), device=samples.device), index]
