"""Decodes the frames of a clip and cuts them to the crop of its view; runs in threads, OpenCV lets go of the lock.

Resizing is left to the device. A clip of eight frames at 512 px takes about 30 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

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
        clip, times = raw.clip, raw.clip.meta.times
        if len(clip.frames) != self.frames or len(times) != self.frames:
            reason = f"it has {len(clip.frames)} frames and {len(times)} times; {self.frames} were expected"
            return NoFrames(raw.row, (), reason)
        images: list[np.ndarray] = []
        view, shape = None, (0, 0)
        for number, data in enumerate(clip.frames):
            try:
                image = decode_frame_file(data, f"{clip.key}.{number:03}.{clip.frame_format}")
            except SourceError as error:
                return NoFrames(raw.row, times, str(error))
            if view is None:
                shape = image.shape[:2]
                view = view_of_clip(self.crops, self.seed, clip.key, raw.job.view, *shape)
            if view is None:
                return NoFrames(raw.row, times, None)
            if image.shape[:2] != shape:
                found, expected = (" × ".join(map(str, each)) for each in (image.shape[:2], shape))
                return NoFrames(raw.row, times, f"frame {number} is {found} pixels, frame 0 is {expected}")
            box = view.crop
            images.append(image[box.top : box.top + box.height, box.left : box.left + box.width])
        assert view is not None
        frames = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=self.pinned)
        np.stack(images, out=frames.numpy())
        return ClipFrames(raw.row, times, view, frames)
