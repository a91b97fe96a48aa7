"""Cuts the frames of a job into batches for the backbone, in order, whatever clip they belong to.

One batch is always under way while the next gathers. Batches never reach across jobs, so that a group comes out the
same whatever was computed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.featurize.compute import Computer, Result
from deltactl.featurize.events import BatchFeatures

Place = tuple[int, int]
"""Row of a clip and number of a frame in it."""


class Batches:
    """The frames of one job on their way through the backbone; `start` begins to compute a batch."""

    def __init__(self, computer: Computer, start: Callable[[Tensor], Result]) -> None:
        self._computer = computer
        self._start = start
        self._places: list[Place] = []
        self._frames: list[Tensor] = []
        self._under_way: tuple[tuple[Place, ...], Result] | None = None

    def add(self, row: int, frames: UInt8[Tensor, "frame 3 size size"]) -> Iterator[BatchFeatures]:
        """Take the frames of a clip, which lie on the device; yield the features of batches that have arrived."""
        self._frames.append(frames)
        self._places.extend((row, number) for number in range(len(frames)))
        while len(self._places) >= self._computer.batch_size:
            begun = self._launch(self._computer.batch_size)
            yield from self._arrived()
            self._under_way = begun

    def close(self) -> Iterator[BatchFeatures]:
        """Compute what is left, and yield all that has not been yielded."""
        yield from self._arrived()
        if self._places:
            self._under_way = self._launch(len(self._places))
            yield from self._arrived()

    def drop(self) -> None:
        """Forget what is left, for the next job."""
        self._places.clear()
        self._frames.clear()
        self._under_way = None

    def _launch(self, count: int) -> tuple[tuple[Place, ...], Result]:
        joined = torch.cat(self._frames)
        started = tuple(self._places[:count]), self._start(joined[:count])
        self._frames = [joined[count:]] if len(joined) > count else []
        del self._places[:count]
        return started

    def _arrived(self) -> Iterator[BatchFeatures]:
        if self._under_way is not None:
            places, result = self._under_way
            self._under_way = None
            yield BatchFeatures(places, *result.wait())
