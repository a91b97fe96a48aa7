"""The second step of the pipeline: decodes the frames of clips and cuts them to the crop of their view.

Frames straight from videos come decoded, and are only cut.

Runs in threads; OpenCV lets go of the lock. Resizing is left to the device. A clip of eight frames at 512 px takes
about 30 ms. `decode_dali` does the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.errors import SourceError
from deltactl.featurize.pipeline.background import read_ahead
from deltactl.featurize.pipeline.events import ClipFrames, Closed, DecodedEvent, NoFrames, RawClip, ShardEvent
from deltactl.featurize.views import PUBLISHED, Augmentation, Crops, view_of_clip
from deltactl.ingest.shards.images import decode_frame_file, decode_plain


@runtime_checkable
class Decoder(Protocol):
    """The decoding step; `ClipDecoder` or `decode_dali.DaliClipDecoder`."""

    def run(self, events: Iterator[ShardEvent]) -> Iterator[DecodedEvent]:
        """Yield decoded clips in place of raw ones, and all other events as they are; `Closed` says what decoded."""


@dataclass(frozen=True)
class ClipDecoder:
    """Decodes with OpenCV, on the CPU."""

    crops: Crops
    seed: int
    frames: int
    """Frames that a clip must have."""
    pinned: bool
    """Whether the frames are copied to a GPU."""
    threads: int = 1
    augmentation: Augmentation = PUBLISHED
    """What random views are drawn from."""
    aspect: float = 1.0
    """Width of what crops become, over its height."""

    def run(self, events: Iterator[ShardEvent]) -> Iterator[DecodedEvent]:
        """Yield decoded clips in place of raw ones, in order; twice as many as there are threads are under way."""
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            yield from read_ahead((self._begin(event, pool) for event in events), 2 * self.threads)

    def _begin(self, event: ShardEvent, pool: ThreadPoolExecutor) -> Callable[[], DecodedEvent]:
        match event:
            case RawClip():
                return pool.submit(self.decode, event).result
            case Closed():
                return partial(Closed, {"decoder": "opencv", **event.computed})
            case _:
                return lambda: event

    def decode(self, raw: RawClip) -> ClipFrames | NoFrames:
        """Return the clip's crops, or why there are none."""
        if refused := self.refuse(raw):
            return refused
        if raw.clip.frame_format == "ppm":
            return self.cut(raw, [torch.from_numpy(decode_plain(data)) for data in raw.clip.frames])
        images: list[Tensor] = []
        for number, data in enumerate(raw.clip.frames):
            try:
                images.append(torch.from_numpy(decode_frame_file(data, frame_name(raw, number))))
            except SourceError as error:
                return NoFrames(raw.row, raw.clip.meta.times, str(error))
        return self.cut(raw, images)

    def refuse(self, raw: RawClip) -> NoFrames | None:
        """Return why a clip cannot be used, as far as that shows before decoding."""
        frames, times = len(raw.clip.frames), len(raw.clip.meta.times)
        if (frames, times) == (self.frames, self.frames):
            return None
        return NoFrames(raw.row, (), f"it has {frames} frames and {times} times; {self.frames} were expected")

    def cut(self, raw: RawClip, images: Sequence[UInt8[Tensor, "height width 3"]]) -> ClipFrames | NoFrames:
        """Return decoded frames cut to the view's crop, on the device they lie on."""
        times, shapes = raw.clip.meta.times, [tuple(image.shape[:2]) for image in images]
        for number, shape in enumerate(shapes):
            if shape != shapes[0]:
                found, expected = (f"{height} × {width}" for height, width in (shape, shapes[0]))
                return NoFrames(raw.row, times, f"frame {number} is {found} pixels, frame 0 is {expected}")
        height, width = shapes[0]
        view = view_of_clip(
            self.crops, self.seed, raw.clip.key, raw.job.view, height, width, self.augmentation, self.aspect
        )
        if view is None:
            return NoFrames(raw.row, times, None)
        box = view.crop
        cut = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
        if cut[0].is_cuda:
            return ClipFrames(raw.row, times, view, torch.stack(cut), raw.clip.columns)
        frames = torch.empty((len(cut), *cut[0].shape), dtype=torch.uint8, pin_memory=self.pinned)
        # By NumPy, in this thread: torch would share out each copy among a team of threads.
        for place, image in zip(frames.numpy(), cut, strict=True):
            place[:] = image.numpy()
        return ClipFrames(raw.row, times, view, frames, raw.clip.columns)


def frame_name(raw: RawClip, number: int) -> str:
    """Return the name of a frame's file in the shard."""
    return f"{raw.clip.key}.{number:03}.{raw.clip.frame_format}"
