"""Surprise at the frames of one clip: takes its features, or its tokens, in order; yields the scores of every frame.

With features: a window of C context frames slides over the clip. The first of a window is encoded against the black
frame, as in a prediction; DeltaWorld samples the tokens H frames ahead, DeltaTok's decoder their features. What came is
compared with the samples in both spaces: its features, and its tokens, the change from the frame before it. Among the
samples' features it is ranked as the decoder tells it from its own tokens: what a token cannot hold is missing from
every sample, and would make everything that comes look farther off than they.

With tokens alone only those of the clip's first frame are against the black frame. So the context is all of the clip
up to H frames before, at least C of it, as in training; there is no decoder, and no distance of copy-last.

Every frame is computed on its own, from draws of its own (`protocol.futures`): its scores do not depend on what else is
looked at, on how many clips there are, or on what was done before an interruption.

Cost: a frame is three encoder passes and (S + 1) · H decoder passes; DeltaWorld's are small beside them. A window of
features is kept, whatever the length of the clip.

C context · H horizon · S samples · P patches · K tokens of a frame · D feature width · d token width
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.evaluate.protocol.futures import draw_queries, samples_at_once
from deltactl.evaluate.surprise.scoring import Surprise, surprise_of
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld


@dataclass(frozen=True)
class FrameScore:
    """The scores of one frame of a clip."""

    frame: int
    """Its number in the clip, from 0."""
    time: float
    """Seconds, on the clip's clock."""
    features: Surprise | None
    """None where there are tokens alone."""
    tokens: Surprise


@dataclass(frozen=True)
class Sampler:
    """A world model, how its samples are drawn, and how far it looks."""

    world: DeltaWorld
    context: int
    horizon: int
    samples: int
    seed: int
    device: torch.device

    @property
    def least(self) -> int:
        """Frames that a clip must have."""
        return self.context + self.horizon

    def queries(self, key: str, view: int, frame: int) -> Float[Tensor, "S H W"]:
        """Return the noise of one frame's samples, on the CPU."""
        return draw_queries(
            seed=self.seed,
            key=f"surprise\n{key}\n{frame}",
            view=view,
            samples=self.samples,
            horizon=self.horizon,
            width=self.world.config.width,
        )

    def times(
        self, times: Sequence[float], first: int, last: int
    ) -> tuple[Float[Tensor, "1 C"], Float[Tensor, "1 {self.horizon}"]]:
        """Return the times of the context and of what comes, of frames `first` … `last`, in seconds since the first."""
        since = torch.tensor([[time - times[first] for time in times[first : last + 1]]], device=self.device)
        return since[:, : -self.horizon], since[:, -self.horizon :]


@dataclass(frozen=True)
class Decoder:
    """What makes features of tokens, and tokens of features."""

    tokenizer: DeltaTok
    black: Float[Tensor, "P D"]
    grid: tuple[int, int]


@dataclass(frozen=True)
class _Seen:
    """One frame of a window."""

    features: Float[Tensor, "P D"]
    alone: Float[Tensor, "K d"]
    """Its tokens against the black frame."""
    change: Float[Tensor, "K d"]
    """Its tokens against the frame before it; of the clip's first frame those against the black frame."""


def score_features(
    sampler: Sampler,
    decoder: Decoder,
    features: Iterable[Float[Tensor, "P D"]],
    times: Sequence[float],
    key: str,
    view: int = 0,
) -> Iterator[FrameScore]:
    """Yield the scores of every frame with a full context; `times` are those of all frames, in seconds.

    Call it under `torch.inference_mode()`.

    Raises:
        CheckpointError: a prediction is not finite.
    """
    window: deque[_Seen] = deque(maxlen=sampler.least)
    tokenizer, black = decoder.tokenizer, decoder.black.to(sampler.device).float()
    for number, each in enumerate(features):
        frame = each.to(sampler.device).float()
        alone = tokenizer.encode(black[None], frame[None], decoder.grid)[0].float()
        change = alone
        if window:
            change = tokenizer.encode(window[-1].features[None], frame[None], decoder.grid)[0].float()
        window.append(_Seen(frame, alone, change))
        if len(window) < sampler.least:
            continue
        seen = list(window)
        tokens, frames = _samples(sampler, decoder, seen, times, key, view, number)
        _check_finite(frames)
        last = seen[sampler.context - 1].features
        unchanged = tokenizer.encode(last[None], last[None], decoder.grid)[0].float()
        yield FrameScore(
            frame=number,
            time=times[number],
            features=surprise_of(frame, frames, last, _told(decoder, seen[sampler.context :], last)),
            tokens=surprise_of(change, tokens, unchanged),
        )


def score_tokens(
    sampler: Sampler, tokens: Float[Tensor, "T K d"], times: Sequence[float], key: str, view: int = 0
) -> Iterator[FrameScore]:
    """Yield the scores of every frame of a clip of tokens with a full context; otherwise as `score_features`."""
    tokens = tokens.to(sampler.device).float()
    for number in range(sampler.least - 1, len(tokens)):
        context = tokens[None, : number + 1 - sampler.horizon]
        past, future = sampler.times(times, 0, number)
        queries = sampler.queries(key, view, number).to(sampler.device)
        drawn = sampler.world.rollout_tokens(context, past, future, queries[None])[0, :, -1].float()
        _check_finite(drawn)
        yield FrameScore(number, times[number], None, surprise_of(tokens[number], drawn))


def _told(decoder: Decoder, came: Sequence[_Seen], last: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
    """Return the last of the frames that came as their own tokens tell it, one after the other, as samples are made."""
    changes = torch.stack([each.change for each in came])
    return decoder.tokenizer.decode_clip(changes[None], last[None], decoder.grid)[0, -1].float()


def _samples(
    sampler: Sampler, decoder: Decoder, seen: Sequence[_Seen], times: Sequence[float], key: str, view: int, number: int
) -> tuple[Float[Tensor, "S K d"], Float[Tensor, "S P D"]]:
    """Return the samples of frame `number` from the window that ends with it, as tokens and as features."""
    last = seen[sampler.context - 1].features
    context = torch.stack([seen[0].alone, *(each.change for each in seen[1 : sampler.context])])[None]
    past, future = sampler.times(times, number - sampler.least + 1, number)
    queries = sampler.queries(key, view, number).to(sampler.device)[None]

    def roll(start: int, stop: int) -> tuple[Tensor, Tensor]:
        drawn = sampler.world.rollout_tokens(context, past, future, queries[:, start:stop])[0]
        made = decoder.tokenizer.decode_clip(drawn, last.expand(len(drawn), -1, -1), decoder.grid)
        return drawn[:, -1].float(), made[:, -1].float()

    # Anew for every frame: how many run at once must not depend on the frames before.
    at_once = samples_at_once(sampler.device, last.shape[0], last.shape[1], context.shape[2])
    parts = list(at_once.pieces(sampler.samples, roll))
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([frames for _, frames in parts])


def _check_finite(samples: Tensor) -> None:
    if not torch.isfinite(samples.sum(dtype=torch.float64)):
        raise CheckpointError(
            "a prediction is not finite: the weights have diverged, or do not belong to these features or tokens; "
            "try another checkpoint"
        )
