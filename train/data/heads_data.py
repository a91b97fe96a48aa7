"""The samples of a head: the features of a square crop, or of a whole frame, with the labels under it.

Takes the shards of a training split (labels) and their feature store (both square crops of each clip, or its whole
frames where `size` is no square); a sample is one labelled frame under one crop. Labels are sampled at the nearest
pixel, since neither classes nor depths can be mixed: classes on four times the feature grid, depth, which is sparse, on
sixteen times. Videos are held out as a whole.

Shapes: B batch · P patches · D width · n × m points of a label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from deltactl.datasets.known import labelled_set
from deltactl.errors import ConfigError, DamagedError, IdentityError, SourceError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import SHOWN, evaluated
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.geometry import Box, evaluated_crops, evaluation_size
from deltactl.ingest.shards.held_out import held_out_sources
from deltactl.ingest.shards.images import decode_label
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.per_process import PerProcess
from deltactl.tasks.known import task_of
from deltactl.train.data.batches import Batch, Source
from deltactl.train.data.module import RunData
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.validation import InOrder

LABEL_THREADS = 4


@dataclass(frozen=True)
class LabelledCrop:
    """One sample."""

    unit: str
    key: str
    source: str
    """Name of the video that the clip is of."""
    frame: int
    """Number of the labelled frame in its clip."""
    step: int
    """Number of the step of features that it is the last frame of."""
    sample: int
    """Number of the clip under this crop in the feature store."""
    view: int
    """0 for the first square crop or the whole frame, 1 for the second square crop."""


class HeadData(RunData):
    """Labelled crops that train, and those of held-out videos."""

    unit = "crops"

    def __init__(self, dataset: str, shards: ShardSet, store: FeatureStore, seed: int, held_out: float) -> None:
        super().__init__(f"{shards.root} and {store.root}")
        check_made_from(store, shards)
        wanted = evaluated(store.identity.size)
        if (kind := store.identity.text("crops")) != wanted:
            there = "random crops" if kind == "augment" else f"crops of the kind {kind}"
            raise ConfigError(
                f"{store.root} holds {there}; heads need {SHOWN[wanted]}: run featurize with --set crops={wanted}"
            )
        self._dataset = dataset
        self._store = store
        self._seed = seed
        self._clips = RandomAccess(shards)
        crops = labelled_crops(self._clips, store)
        if not crops:
            raise ConfigError(f"{shards.root} holds no labels that {store.root} has features of")
        held = held_out_sources((crop.source for crop in crops), held_out)
        self._train = [crop for crop in crops if crop.source not in held]
        self._held_out = [crop for crop in crops if crop.source in held]

    @property
    def place(self) -> Location:
        """Where the features are."""
        return self._store.root

    @property
    def clips(self) -> int:
        """Labelled crops that train."""
        return len(self._train)

    @property
    def held_out(self) -> int:
        """Labelled crops that are held out."""
        return len(self._held_out)

    def repeats(self, samples: int) -> float | None:
        """Return how often each labelled crop comes when so many are drawn."""
        return samples / self.clips

    def training_source(self) -> Source:
        """Return the crops that train."""
        return LabelledCrops(self._dataset, self._store, self._clips, self._train, ClipOrder([self.clips], self._seed))

    def held_out_source(self) -> Source:
        """Return the crops that are held out."""
        return LabelledCrops(self._dataset, self._store, self._clips, self._held_out, InOrder())


def check_made_from(store: FeatureStore, shards: ShardSet) -> None:
    """Check that features are of the clips of a set of shards.

    Raises:
        IdentityError: they were made from others.
    """
    if store.identity.values.get("shards") != shards.identity.hash():
        raise IdentityError(
            f"{store.root} was not made from {shards.root}; name features and the shards that they were made from"
        )


class LabelledCrops:
    """Reads labelled crops; features by the store's threads, labels by a few more."""

    def __init__(
        self,
        dataset: str,
        store: FeatureStore,
        clips: RandomAccess,
        crops: Sequence[LabelledCrop],
        order: ClipOrder | InOrder,
    ) -> None:
        self.clips = len(crops)
        self._record = labelled_set(dataset)
        self._points_per_patch = task_of(dataset).points_per_patch
        self._store = store
        self._access = clips
        self._size = clips.shards.identity.size
        self._crops = crops
        self._order = order
        self._pool = PerProcess(partial(ThreadPoolExecutor, LABEL_THREADS, thread_name_prefix="labels"))

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(crop.key for crop in self._at(places))

    def start(
        self,
        places: Int64[np.ndarray, " B"],
        out: Float[Tensor, "B 1 P D"] | None = None,  # noqa: ARG002 (it has no buffer)
    ) -> Callable[[], Batch]:
        """Begin to read features and labels."""
        crops = self._at(places)
        reading = self._store.start_frames([(crop.sample, crop.step) for crop in crops])
        labels = [self._pool.get().submit(self._label, crop) for crop in crops]

        def finish() -> Batch:
            data = reading.result()
            targets = torch.from_numpy(np.stack([label.result() for label in labels]))
            return Batch("features", data, torch.zeros(len(crops), 1), places, self._store.grid, targets)

        return finish

    def buffer(self, samples: int) -> None:
        """Return nothing: heads are trained from one set."""

    def _at(self, places: Int64[np.ndarray, " B"]) -> list[LabelledCrop]:
        return [self._crops[number] for number in self._order.at(places).clip.tolist()]

    def _label(self, crop: LabelledCrop) -> Shaped[np.ndarray, "n m"]:
        try:
            label = decode_label(self._access.read_label(crop.unit, crop.key, crop.frame))
            target = self._record.target(label)
        except SourceError as error:
            raise DamagedError(
                f"the label of frame {crop.frame} of {crop.key} in shard {crop.unit}: {error}"
            ) from error
        rows, columns = (each * self._points_per_patch for each in self._store.grid)
        height, width = target.shape
        stored = evaluation_size(height, width, self._size)
        return crop_target(target, stored, evaluated_crops(*stored, self._size)[crop.view], (rows, columns))


def labelled_crops(clips: RandomAccess, store: FeatureStore) -> list[LabelledCrop]:
    """Return every labelled frame under every crop that has features, shard by shard.

    Where a step of features is made from several frames, its label is that of its last frame, and others do not count.

    Raises:
        DamagedError: a tar or its sidecar is damaged.
    """
    frames_per_step = clips.shards.identity.integer("frames") // store.frames
    crops: list[LabelledCrop] = []
    for unit in clips.shards.units:
        source = dict(zip(clips.keys(unit), clips.shards.sources_of(unit), strict=True))
        crops += [
            LabelledCrop(unit, key, source[key], frame, frame // frames_per_step, store.find(key, view), view)
            for key, frame in clips.labels(unit)
            if (frame + 1) % frames_per_step == 0
            for view in store.views_of(key)
        ]
    return crops


def crop_target(
    target: Shaped[np.ndarray, "h w"], frame_size: tuple[int, int], box: Box, points: tuple[int, int]
) -> Shaped[np.ndarray, "n m"]:
    """Return a target at the centres of rows × columns cells of a crop (`points`), each its nearest pixel's value.

    `frame_size` is the (height, width) of the stored frame, `box` the crop of it; the target may have another scale.
    """
    down, along = ((np.arange(count) + 0.5) / count for count in points)
    rows = ((box.top + down * box.height) * target.shape[0] / frame_size[0]).astype(np.int64)
    columns = ((box.left + along * box.width) * target.shape[1] / frame_size[1]).astype(np.int64)
    return target[rows[:, None], columns[None]]
