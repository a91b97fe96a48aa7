"""Decodes the frames of a clip and cuts them to the crop of its view; runs in threads, OpenCV lets go of the lock.

Resizing is left to the device. A clip of eight frames at 512 px takes about 30 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.errors import SourceError
from deltactl.featurize.events import ClipFrames, NoFrames, RawClip
from deltactl.featurize.views import Crops, view_of_clip
from deltactl.ingest.images import decode_frame_file


@dataclass(frozen=True)
class ClipDecoder:
    """What decoding a clip depends on."""

    crops: Crops
    seed: int
    frames: int
    """Frames that a clip must have."""
    pinned: bool
    """Whether the frames are copied to a GPU."""

    def decode(self, raw: RawClip) -> ClipFrames | NoFrames:
        """Return the clip's crops, or why there are none."""
        if refused := self.refuse(raw):
            return refused
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
        view = view_of_clip(self.crops, self.seed, raw.clip.key, raw.job.view, *shapes[0])
        if view is None:
            return NoFrames(raw.row, times, None)
        box = view.crop
        cut = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
        if cut[0].is_cuda:
            return ClipFrames(raw.row, times, view, torch.stack(cut))
        frames = torch.empty((len(cut), *cut[0].shape), dtype=torch.uint8, pin_memory=self.pinned)
        # By NumPy, in this thread: torch would share out each copy among a team of threads.
        for place, image in zip(frames.numpy(), cut, strict=True):
            place[:] = image.numpy()
        return ClipFrames(raw.row, times, view, frames)


def frame_name(raw: RawClip, number: int) -> str:
    """Return the name of a frame's file in the shard."""
    return f"{raw.clip.key}.{number:03}.{raw.clip.frame_format}"
