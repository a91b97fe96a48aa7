"""Where an evaluation gets its clips: from the cache (shards and feature store), or from the data set, keeping nothing.

Both sources yield batches of crops in the order of the plan: square ones, or whole frames where the size is no square.
They come as features of the store's type, with the times of their frames and their part of each label. A label is
decoded when the first row asks for it, and once for both crops.

Cost: a clip of 7 frames at 512 px (ViT-B) is 22 MB to read from the store; streaming, 14 passes of the backbone.

B batch (crops) · T frames · P patches · D feature width
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from deltactl.artifacts import Quarantined
from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.record import LabelledSet
from deltactl.engine import batched
from deltactl.evaluate.protocol.memory import AtOnce
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.background import read_ahead
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.store.layout import StoreDtype
from deltactl.featurize.store.numbers import torch_dtype
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import View
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.geometry import Box, evaluated_crops
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.ingest.shards.labels import split_target
from deltactl.ingest.units import Plan, UnitLog, UnitPlan

CLIPS_IN_A_TASK = 32
"""Few enough that several devices share a set of 500 clips, many enough that reading a shard anew does not matter."""


@dataclass(frozen=True)
class ClipTask:
    """Some clips in a row of one shard (or, streaming, of one unit of the plan): what one process does in one go."""

    unit: str
    first: int
    last: int
    """One beyond the last clip's number in the unit."""

    @property
    def clips(self) -> int:
        """How many."""
        return self.last - self.first

    @property
    def name(self) -> str:
        """What it is called, unlike every other task of the evaluation."""
        return f"{self.unit}-{self.first}"


class LabelledClip:
    """The labels of a clip of so many moments as targets, each decoded once."""

    def __init__(
        self, clip: Clip, frame_size: tuple[int, int], size: FrameSize, dataset: LabelledSet, frames: int
    ) -> None:
        self.record = clip
        """The clip as it stands in its shard."""
        self.key = clip.key
        self.video = clip.meta.source if clip.source_name is None else clip.source_name
        """Name of the video that it is of."""
        self.frames_per_step = len(clip.meta.times) // frames
        """Stored frames that make one step of features. What is counted otherwise is the last frame of each step."""
        self.times = clip.meta.times[self.frames_per_step - 1 :: self.frames_per_step]
        self.frame_size = frame_size
        """Height and width of the stored frames."""
        self.size = size
        """That of the evaluation: a square one looks at square crops of frames, any other at whole frames."""
        self.dataset = dataset
        """The set that it is of, which knows what its labels mean."""
        self._labels = dict(clip.labels)
        self._targets: dict[int, tuple[Shaped[np.ndarray, "h w"], ...]] = {}

    def stored(self, frame: int) -> int:
        """Return the number in the shard's clip of a frame, the last of its step."""
        return (frame + 1) * self.frames_per_step - 1

    def target(self, frame: int, view: int) -> Shaped[np.ndarray, "h w"] | None:
        """Return the part of a frame's target that belongs to a crop; None where the frame has no label."""
        stored = self.stored(frame)
        if frame not in self._targets and stored in self._labels:
            whole = self.dataset.target(decode_label(self._labels.pop(stored)))
            self._targets[frame] = split_target(whole, self.frame_size) if self.size.square else (whole,)
        parts = self._targets.get(frame)
        return None if parts is None else parts[view]


@dataclass(frozen=True)
class Crop:
    """One crop of a clip: an item of a batch."""

    clip: LabelledClip
    view: int
    crops: int
    """How many crops the clip has, 1 or 2; each clip counts once in the losses."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the stored frame that it was cut from."""
        return self.clip.frame_size

    @property
    def key(self) -> str:
        """Key of the clip."""
        return self.clip.key

    @property
    def video(self) -> str:
        """Name of the video that the clip is of."""
        return self.clip.video

    @property
    def whole(self) -> bool:
        """Whether it is the whole frame; else a square of it."""
        return not self.clip.size.square

    @property
    def box(self) -> Box:
        """The part of the stored frame that it is."""
        return evaluated_crops(*self.frame_size, self.clip.size)[self.view]

    def target(self, frame: int) -> Shaped[np.ndarray, "h w"] | None:
        """Return its part of a frame's target; None where the frame has no label."""
        return self.clip.target(frame, self.view)


@dataclass(frozen=True)
class CropBatch:
    """Crops and their features."""

    crops: tuple[Crop, ...]
    features: Float[Tensor, "B T P D"]

    def part(self, start: int, stop: int) -> CropBatch:
        """Return some of them."""
        return CropBatch(self.crops[start:stop], self.features[start:stop])


@runtime_checkable
class ClipSource(Protocol):
    """What gives the crops of a task; lives in the process that uses it."""

    quarantined: list[Quarantined]
    """Clips that could not be used, as they are met."""

    def batches(self, task: ClipTask, size: int) -> Iterator[CropBatch]:
        """Yield the crops of a task in order, `size` at a time."""
        ...


class CachedClips:
    """Clips whose features are in a store; the shards give their labels."""

    def __init__(
        self, shards: ShardSet, store: FeatureStore, size: FrameSize, dataset: LabelledSet, frames: int
    ) -> None:
        self.quarantined: list[Quarantined] = []
        self._frames = frames
        self._dataset = dataset
        self._shards = shards
        self._store = store
        self._size = size

    def batches(self, task: ClipTask, size: int) -> Iterator[CropBatch]:
        """Yield the crops of a task; the next batch is read while the caller works on one."""
        return read_ahead(map(self._begin, batched(self._crops(task), size)), 1)

    def _begin(self, crops: tuple[Crop, ...]) -> Callable[[], CropBatch]:
        reading = self._store.start_clips([self._store.find(crop.clip.key, crop.view) for crop in crops])
        return lambda: CropBatch(crops, reading.result())

    def _crops(self, task: ClipTask) -> Iterator[Crop]:
        for number, clip in enumerate(self._shards.read(task.unit)):
            if number >= task.last:
                return
            if number < task.first:
                continue
            stored = self._dataset.stored_size(*clip.meta.original_size, self._size)
            labelled = LabelledClip(clip, stored, self._size, self._dataset, self._frames)
            views = self._store.views_of(clip.key)  # none of a clip that was quarantined
            for view in views:
                yield Crop(labelled, view, len(views))


@dataclass
class StreamedClips:
    """Clips straight from the data set, through the backbone, with nothing written."""

    plan: Plan
    backbone: Backbone
    size: FrameSize
    dataset: LabelledSet
    frames: int
    """Moments in a clip."""
    dtype: StoreDtype = "float16"
    """Type that features are rounded to."""
    quarantined: list[Quarantined] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._units = {unit.name: unit for unit in self.plan.units}
        self._at_once = AtOnce("frames", self.frames, self.backbone.device)

    def batches(self, task: ClipTask, size: int) -> Iterator[CropBatch]:
        """Yield the crops of a task."""
        for pairs in batched(self._crops(self._units[task.unit], task), size):
            yield CropBatch(tuple(crop for crop, _ in pairs), torch.stack([features for _, features in pairs]))

    def _crops(self, unit: UnitPlan, task: ClipTask) -> Iterator[tuple[Crop, Float[Tensor, "T P D"]]]:
        items = unit.items[task.first : task.last]
        log = UnitLog()
        some = dataclasses.replace(unit, items=items, clips=len(items))
        for clip in self.plan.maker.clips(some, log):
            frames = torch.from_numpy(np.stack([decode_frame(data) for data in clip.frames]))
            frames = frames.permute(0, 3, 1, 2).to(self.backbone.device)
            height, width = frames.shape[2:]
            labelled = LabelledClip(clip, (height, width), self.size, self.dataset, self.frames)
            boxes = evaluated_crops(height, width, self.size)
            for number, box in enumerate(boxes):
                pixels = crop_resize(frames, View(box, flip=False), self.size)
                # Rounded as the store keeps them: both ways give the same numbers.
                yield Crop(labelled, number, len(boxes)), self._features(pixels)
        self.quarantined += log.quarantined

    def _features(self, pixels: UInt8[Tensor, "frame 3 h w"]) -> Float[Tensor, "T P D"]:
        """Return the features of a crop's steps, a whole clip at once unless the memory is full."""
        dtype, steps = torch_dtype(self.dtype), pixels.unflatten(0, (-1, self.backbone.frames_per_step))
        parts = self._at_once.pieces(len(steps), lambda start, stop: self.backbone(steps[start:stop]).to(dtype).cpu())
        return torch.cat(list(parts))[:, 0]


def tasks_of(units: Iterable[tuple[str, int]], limit: int | None) -> list[ClipTask]:
    """Return the tasks of units with so many clips each, up to `limit` clips in all."""
    tasks: list[ClipTask] = []
    left = limit
    for unit, clips in units:
        clips = clips if left is None else min(clips, left)
        left = None if left is None else left - clips
        for first in range(0, clips, CLIPS_IN_A_TASK):
            tasks.append(ClipTask(unit, first, min(first + CLIPS_IN_A_TASK, clips)))
    return tasks
