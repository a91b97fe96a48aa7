"""Live training: clips read from shards and cropped afresh at every visit, for the frozen networks in the loop.

A clip's crop in epoch e is the crop of view e of a feature store with the same seed and `Augmentation`. So live
training and training from a store with enough views see the same features. Clips are read by their keys
(`ingest.shards.random_access`).

For a backbone that makes one step of features from several frames, a clip's frames are whole steps: pairs are of
consecutive steps, and the time of a step is that of its last frame.

Costs a decode and a resize of each frame, in threads: about 4 ms at 512 px.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import DamagedError, SourceError
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.views import PUBLISHED, Augmentation, training_view
from deltactl.ingest.shards.columns import checked_clip, number_columns
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.per_process import PerProcess
from deltactl.train.data.batches import Batch
from deltactl.train.data.carried import of_samples
from deltactl.train.data.draws import seed_of
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.selection import Selection
from deltactl.train.data.sources import first_frames
from deltactl.train.data.validation import InOrder


class _Read(NamedTuple):
    """What is known of a clip's steps besides their pixels."""

    times: list[float]
    """Seconds since the first step."""
    columns: dict[str, np.ndarray]
    """Of the steps, or of the clip."""


class LiveClips:
    """Frames of clips (or of pairs of consecutive ones), cropped for this visit."""

    def __init__(
        self,
        clips: RandomAccess,
        selection: Selection,
        order: ClipOrder | InOrder,
        *,
        take: Literal["pairs", "clips"],
        frames: int,
        size: FrameSize,
        seed: int,
        threads: int,
        pool: PerProcess[ThreadPoolExecutor] | None = None,
        for_gpu: bool = False,
        pairs_per_clip: int = 1,
        augmentation: Augmentation = PUBLISHED,
        frames_per_step: int = 1,
    ) -> None:
        """Set up.

        `frames`: of a clip; `threads`: as many as decode, or those of a `pool` that several sets share; `for_gpu`:
        whether a GPU computes, and the cores have nothing to do but this.
        """
        self.clips = selection.clips
        self._access = clips
        self._carried = number_columns(clips.shards.columns)
        self._units = clips.shards.units
        _, self._unit, self._row = clips.shards.origins
        self._selection = selection
        self._order = order
        self._take = take
        self._frames = frames
        self._step = frames_per_step
        self._size = size
        self._seed = seed
        self._augmentation = augmentation
        self._pairs_per_clip = pairs_per_clip if take == "pairs" else 1
        self._for_gpu = for_gpu
        self._pool = pool or live_pool(threads, for_gpu=for_gpu)

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._find(clip)[1] for clip, _ in self._visits(places))

    def buffer(self, samples: int) -> UInt8[Tensor, "B T *f 3 H W"]:
        """Return what crops are written to."""
        steps = 2 if self._take == "pairs" else self._frames // self._step
        step = () if self._step == 1 else (self._step,)
        shape = (samples, steps, *step, 3, *self._size.pair)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._for_gpu)

    def start(
        self, places: Int64[np.ndarray, " B"], out: UInt8[Tensor, "B T *f 3 H W"] | None = None
    ) -> Callable[[], Batch]:
        """Begin to decode and crop the frames."""
        chosen: list[list[int] | None] = [None] * len(places)
        if self._take == "pairs":
            visits, turns = np.divmod(places, self._pairs_per_clip)
            first = first_frames(seed_of(self._seed, "pair"), visits, turns, self._frames // self._step)
            chosen = [list(range(int(number) * self._step, (int(number) + 2) * self._step)) for number in first]
        pixels = self.buffer(len(places)) if out is None else out
        futures = [
            self._pool.get().submit(self._read, clip, view, frames, each)
            for (clip, view), frames, each in zip(self._visits(places), chosen, pixels, strict=True)
        ]
        return partial(_gather, futures, pixels, places)

    def _visits(self, places: Int64[np.ndarray, " B"]) -> list[tuple[int, int]]:
        """Return the clip at each place, and the view that it shows there: the epoch's."""
        at = self._order.at(places // self._pairs_per_clip)
        clips = self._selection.samples[0, at.clip]
        return list(zip(clips.tolist(), at.epoch.tolist(), strict=True))

    def _find(self, clip: int) -> tuple[str, str]:
        """Return the unit and the key of a clip by its number."""
        unit = self._units[self._unit[clip]]
        return unit, self._access.keys(unit)[self._row[clip]]

    def _read(self, clip: int, view: int, frames: list[int] | None, out: UInt8[Tensor, "T *f 3 H W"]) -> _Read:
        """Write a clip's crops to its place in the batch; return what is known of its steps."""
        unit, key = self._find(clip)
        try:
            meta, files = self._access.read(unit, key, frames)
            if len(meta.times) != self._frames:
                raise SourceError(f"it has {len(meta.times)} frames; {self._frames} were expected")
            images = [decode_frame_file(data, name) for name, data in files]
            columns = self._access.columns(unit, key) if self._carried else {}
            if self._carried and (fault := checked_clip(columns, self._access.shards.columns, self._frames)):
                raise SourceError(fault)
        except SourceError as error:
            raise DamagedError(
                f"clip {key} of shard {unit} cannot be used: {error}; deltactl verify {self._access.shards.root} says "
                "more"
            ) from error
        height, width = images[0].shape[:2]
        shown = training_view(self._seed, key, view, height, width, self._augmentation, self._size.aspect)
        box = shown.crop
        cuts = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
        planes = torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2)
        out.copy_(crop_resize(planes, shown.of_cut, self._size).view(out.shape))
        last = self._step - 1
        numbers = list(range(len(meta.times)) if frames is None else frames)[last :: self._step]
        return _Read(
            [meta.times[number] - meta.times[last] for number in numbers],
            {
                column.name: columns[column.name] if column.of_clip else columns[column.name][numbers]
                for column in self._carried
            },
        )


def live_pool(threads: int, *, for_gpu: bool = False) -> PerProcess[ThreadPoolExecutor]:
    """Return threads that decode; `for_gpu`: a GPU computes, and the cores have nothing to do but this."""
    if for_gpu:
        # Each thread would keep a team of threads of its own for a resize, one for every core.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    return PerProcess(partial(ThreadPoolExecutor, threads, thread_name_prefix="live"))


def _gather(
    futures: list[Future[_Read]], pixels: UInt8[Tensor, "B T *f 3 H W"], places: Int64[np.ndarray, " B"]
) -> Batch:
    read = [future.result() for future in futures]
    times = torch.tensor([each.times for each in read], dtype=torch.float32)
    return Batch("frames", pixels, times, places, columns=of_samples([each.columns for each in read]))
