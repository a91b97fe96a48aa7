"""Measures whether samples cover the futures that really can happen.

The demo's world can be run again from the same moment, so one context has many true futures. Of each of them the
distance to its nearest sample is measured, beside that to the last context frame: between backbone features at the
horizon's last frame (smooth-L1, beta 0.1, as in the evaluation). Samples that are all alike are far from most true
futures; samples that spread as the world does are near to each.

C context frames · K true futures · S samples · P patches · D feature width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from deltactl.configs.frame_size import FrameSize
from deltactl.demo.datasets import TEST, VSPW_FRAMES_PER_SECOND, DemoSizes, test_film
from deltactl.demo.world import World, picture
from deltactl.evaluate.protocol.futures import draw_queries, sample_futures
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.views import View
from deltactl.ingest.shards.geometry import evaluation_size, resize, square_crops
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld

STRIDE_FRAMES = 3
"""Of VSPW's 15 frames a second: 0.2 s."""


@dataclass(frozen=True)
class Coverage:
    """Mean distances over contexts and true futures."""

    horizon: int
    contexts: int
    truths: int
    nearest_sample: float
    """From a true future to the nearest of the samples."""
    copy_last: float
    """From a true future to the last context frame."""
    mean_sample: float
    """From a true future to the mean of the samples: what a single guess would reach."""
    among_truths: float
    """From a true future to the nearest of as many others as there are samples: what perfect samples would reach."""


def measure_coverage(
    backbone: Backbone,
    tokenizer: DeltaTok,
    world: DeltaWorld,
    *,
    seed: int,
    sizes: DemoSizes,
    pixels: int = 64,
    context: int = 4,
    horizon: int = 3,
    truths: int = 20,
    samples: int = 20,
) -> Coverage:
    """Fork each test video of the demo after its context, and measure how near the samples come to every fork."""
    sums = np.zeros(4)
    crops = 0
    grid = (pixels // backbone.patch_size, pixels // backbone.patch_size)
    black = backbone.black_features(pixels, pixels)
    step = STRIDE_FRAMES / VSPW_FRAMES_PER_SECOND
    for number in range(sizes.test_videos):
        past = test_film(seed, TEST, number, sizes)[: context * STRIDE_FRAMES : STRIDE_FRAMES]
        forks = [
            past[-1].after(horizon * step, np.random.default_rng([seed, TEST, number, 2, fork]))
            for fork in range(truths + samples)
        ]
        seen = _features(backbone, past, sizes.test_size, pixels)
        happened = _features(backbone, forks, sizes.test_size, pixels)
        for view, (clip, futures) in enumerate(zip(seen, happened, strict=True)):
            times = torch.arange(context + horizon, dtype=torch.float32)[None] * step
            queries = draw_queries(
                seed=seed,
                key=f"coverage{number}",
                view=view,
                samples=samples,
                horizon=horizon,
                width=world.config.width,
            )
            sampled = sample_futures(
                world,
                tokenizer,
                tokens=tokenizer.encode_clip(clip[None], black, grid),
                times=times[:, :context],
                target_times=times[:, context:],
                last=clip[None, -1],
                grid=grid,
                queries=queries[None],
            )[0, :, -1]
            true, others = futures[:truths], futures[truths:]
            sums += [
                _distances(true, sampled).min(dim=1).values.mean().item(),
                _distances(true, clip[-1:]).mean().item(),
                _distances(true, sampled.mean(dim=0, keepdim=True)).mean().item(),
                _distances(true, others).min(dim=1).values.mean().item(),
            ]
            crops += 1
    return Coverage(horizon, sizes.test_videos, truths, *(sums / crops).tolist())


def _features(
    backbone: Backbone, states: Sequence[World], size: tuple[int, int], pixels: int
) -> list[Float[Tensor, "frames P D"]]:
    """Return the features of the states in each square crop, as the evaluation cuts them."""
    stored = [resize(picture(state, *size), *evaluation_size(*size, FrameSize(pixels, pixels))) for state in states]
    frames: UInt8[Tensor, "frames 3 h w"] = torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2)
    boxes = square_crops(*frames.shape[2:])
    return [backbone(crop_resize(frames, View(box, flip=False), FrameSize(pixels, pixels))).float() for box in boxes]


def _distances(a: Float[Tensor, "K P D"], b: Float[Tensor, "S P D"]) -> Float[Tensor, "K S"]:
    """Return the smooth-L1 of every pair."""
    rows = [F.smooth_l1_loss(each.expand_as(b), b, beta=0.1, reduction="none").mean((1, 2)) for each in a]
    return torch.stack(rows)
