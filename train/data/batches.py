"""Prefetches batches in threads while the previous step computes; there are no worker processes.

A source begins to read the samples at some places of the stream (`start`) and hands them over when they are asked for;
`Batches` keeps a few such reads under way and measures how long training waits for them. Where a run begins is a step
number and nothing else, so resuming costs nothing.

Shapes: B batch · T frames of a sample (2 for the tokenizer) · P patches · K tokens of a frame · D width · H, W pixels.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor

from deltactl.featurize.pipeline.background import read_ahead
from deltactl.train.data.order import BatchPlan
from deltactl.train.networks.rope import Grid

READS_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Samples for one device."""

    kind: Literal["features", "tokens", "frames"]
    """What `data` holds: backbone features, delta tokens, or pixels that the frozen networks have yet to see."""
    data: Shaped[Tensor, "B T *rest"]
    """features (B, T, P, D) or tokens (B, T, K, D), float16 or bfloat16; frames (B, T, 3, H, W) uint8 RGB, where a
    step of features is made from several frames (B, T, f, 3, H, W)."""
    times: Float32[Tensor, "B T"]
    """Seconds since the first frame of the clip."""
    places: Int64[np.ndarray, " B"]
    """Where the samples stand in the stream (training) or in the store (validation): what their draws depend on."""
    grid: Grid | None = None
    """Rows and columns of patches; None for tokens."""
    labels: Shaped[Tensor, "B rows columns"] | None = None
    """For heads: class ids (uint8, 255 does not count) or metres (float32, 0 does not count)."""
    pixels: UInt8[Tensor, "B 3 H W"] | None = None
    """For RGB heads: the frames that the features are of."""
    set_name: str = ""
    """For held-out samples of a mixture: the set that all of them are of."""
    sorted_by_set: bool = False
    """Whether samples of several sets stand in it, one set after the other."""
    columns: Mapping[str, Shaped[Tensor, "..."]] = field(default_factory=dict)
    """The numbers that samples carry besides, by name: (B, T, …), where the name begins with `clip.` (B, …). A step of
    several frames has those of its last one. Of a mixture those that all its sets have alike."""

    def few(self, count: int) -> slice:
        """Return which samples stand for the batch: the first ones, or of several sets every so many-th."""
        step = max(1, len(self.places) // count) if self.sorted_by_set else 1
        return slice(0, count * step, step)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(
            self,
            data=self.data.to(device, non_blocking=True),
            times=self.times.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            pixels=None if self.pixels is None else self.pixels.to(device, non_blocking=True),
            columns={name: values.to(device, non_blocking=True) for name, values in self.columns.items()},
        )


@runtime_checkable
class Source(Protocol):
    """Where samples come from."""

    clips: int
    """Clips that training draws from, one after the other in an epoch."""

    def start(
        self, places: Int64[np.ndarray, " B"], out: Shaped[Tensor, "B T *rest"] | None = None
    ) -> Callable[[], Batch]:
        """Begin to read the samples at these places of the stream, into `out` where one is given.

        The result waits for them.
        """
        ...

    def buffer(self, samples: int) -> Shaped[Tensor, "B T *rest"] | None:
        """Return what `start` reads so many samples into; None if it makes its data when they are asked for."""
        ...

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the keys of the clips at these places."""
        ...


class Batches:
    """The endless batches of one device, from the step that the run stands at when iteration begins."""

    def __init__(self, source: Source, plan: BatchPlan, rank: int, first_step: Callable[[], int]) -> None:
        self.source = source
        self.plan = plan
        self.rank = rank
        self._first_step = first_step
        self.waited_seconds = 0.0
        """How long training has waited for data so far."""

    def places(self, number: int) -> Int64[np.ndarray, " B"]:
        """Return the places of this device's batch number `number` (a step has `accumulate` of them)."""
        step, turn = divmod(number, self.plan.accumulate)
        return self.plan.places(step, turn, self.rank)

    def __iter__(self) -> Iterator[Batch]:
        numbers = itertools.count(self._first_step() * self.plan.accumulate)
        yield from read_ahead(map(self._begin, numbers), READS_AHEAD)

    def _begin(self, number: int) -> Callable[[], Batch]:
        wait = self.source.start(self.places(number))

        def batch() -> Batch:
            began = time.perf_counter()
            made = wait()
            self.waited_seconds += time.perf_counter() - began
            return made

        return batch
