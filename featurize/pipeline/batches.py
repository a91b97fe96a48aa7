"""The third step of the pipeline: the backbone, on batches of a job's frames, in order, whatever clip they belong to.

Frames come in, steps of features go out (`frames_per_step` of the backbone, 1 for most): whatever follows counts steps,
and the time of a step is that of its last frame.

One batch is always under way while the next gathers. Batches never reach across jobs, so that a group comes out the
same whatever was computed before it. Where the GPU's memory runs full, batches get smaller and the job begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from deltactl.devices import full_memory
from deltactl.featurize.pipeline.compute import Computer, Result
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.pipeline.events import (
    Again,
    BatchFeatures,
    ClipFrames,
    ClipView,
    Closed,
    ComputedEvent,
    DecodedEvent,
    Failed,
    NoFrames,
    Opened,
)
from deltactl.gpu_faults import is_out_of_memory
from deltactl.ingest.shards.columns import of_steps

log = logging.getLogger(__name__)

Place = tuple[int, int]
"""Row of a clip and number of a step in it."""


class Batcher:
    """The frames of jobs on their way through the backbone; `start` begins to compute a batch."""

    def __init__(self, computer: Computer, start: Callable[[Tensor], Result]) -> None:
        self._computer = computer
        self._start = start
        self._step = computer.frames_per_step
        self._places: list[Place] = []
        self._frames: list[Tensor] = []
        self._under_way: tuple[tuple[Place, ...], Result] | None = None

    def run(self, events: Iterable[DecodedEvent]) -> Iterator[ComputedEvent]:
        """Yield the features of batches in place of decoded clips, and all other events as they are.

        The rest of a job that begins anew does not come.
        """
        passing = True  # False in the rest of a job that begins anew
        for event in events:
            passing = passing or isinstance(event, Opened)
            if not passing:
                continue
            full = False
            try:
                made = list(self._take(event))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                full = True  # the error holds the batch's memory until it is let go
            if full:
                self._drop()
                self._shrink()
                passing, made = False, [Again()]
            yield from made

    def _take(self, event: DecodedEvent) -> Iterator[ComputedEvent]:
        match event:
            case ClipFrames():
                yield ClipView(event.row, self._times(event.times), event.view, of_steps(event.columns, self._step))
                yield from self._add(event)
            case NoFrames():
                yield replace(event, times=self._times(event.times))
            case Closed():
                yield from self._finish()
                yield Closed({**self._computer.provenance, **event.computed})
            case Failed():
                self._drop()
                yield event
            case _:
                yield event

    def _add(self, clip: ClipFrames) -> Iterator[BatchFeatures]:
        """Take the frames of a clip; yield the features of batches that have arrived."""
        planes = clip.frames.to(self._computer.device, non_blocking=True).permute(0, 3, 1, 2)
        frames = crop_resize(planes, clip.view.of_cut, self._computer.size)
        self._frames.append(frames)
        self._places.extend((clip.row, number) for number in range(len(frames) // self._step))
        while len(self._places) >= self._steps_at_once:
            begun = self._launch(self._steps_at_once)
            yield from self._arrived()
            self._under_way = begun

    @property
    def _steps_at_once(self) -> int:
        return self._computer.batch_size // self._step

    def _times(self, times: tuple[float, ...]) -> tuple[float, ...]:
        """Return the times of steps from those of frames."""
        return times[self._step - 1 :: self._step]

    def _finish(self) -> Iterator[BatchFeatures]:
        """Compute what is left of a job, and yield all that has not been yielded."""
        yield from self._arrived()
        if self._places:
            self._under_way = self._launch(len(self._places))
            yield from self._arrived()

    def _drop(self) -> None:
        """Forget what is left of a job."""
        self._places.clear()
        self._frames.clear()
        self._under_way = None

    def _launch(self, count: int) -> tuple[tuple[Place, ...], Result]:
        joined, frames = torch.cat(self._frames), count * self._step
        started = tuple(self._places[:count]), self._start(joined[:frames])
        self._frames = [joined[frames:]] if len(joined) > frames else []
        del self._places[:count]
        return started

    def _arrived(self) -> Iterator[BatchFeatures]:
        if self._under_way is not None:
            places, result = self._under_way
            self._under_way = None
            yield BatchFeatures(places, *result.wait())

    def _shrink(self) -> None:
        computer = self._computer
        before = computer.batch_size
        if not computer.halve():
            one = "one frame" if self._step == 1 else f"one step of {self._step} frames"
            raise full_memory(computer.device, f"{one} of {computer.size} px")
        log.warning(
            "%s has no memory for batches of %d frames; %d fit (to begin so: --batch-size %d)",
            computer.device,
            before,
            computer.batch_size,
            computer.batch_size,
        )
