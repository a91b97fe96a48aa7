"""The samples of an RGB head: the features of one frame of a clip, with the pixels that they were made of.

Takes a feature store, of any kind of views, and the shards that it was made from. The pixels are those that the view
shows of the stored frame, resized as featurize does (`crop_resize`; a GPU's are within one level of them). Each view of
a clip is visited once an epoch, and shows its next frame then. Where a step of features is made from several frames,
the pixels are those of its last one. Videos are held out as a whole.

Costs a decode and a resize for each sample, in threads: about 4 ms at 512 px.

Shapes: B batch · P patches · D width · H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from deltactl.errors import DamagedError, SourceError
from deltactl.featurize.pictures.clip_frames import cut, views_of
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.pipeline.pipeline import decode_threads
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import View
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.per_process import PerProcess
from deltactl.train.data.batches import Batch, Source
from deltactl.train.data.draws import scramble, seed_of
from deltactl.train.data.live import live_pool
from deltactl.train.data.module import RunData
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.selection import Selection, select
from deltactl.train.data.validation import InOrder


class RGBData(RunData):
    """Frames that train, and those of held-out videos."""

    unit = "crops"

    def __init__(
        self,
        shards: ShardSet,
        store: FeatureStore,
        seed: int,
        held_out: float,
        *,
        block_shards: int | None = None,
        left_out: Collection[str] = frozenset(),
    ) -> None:
        """`block_shards`: shards in a block of the shuffle, None for a global one; `left_out`: keys of clips.

        Raises:
            ConfigError: nothing is left to train on.
        """
        super().__init__(f"{store.root} and {shards.root}")
        self._store = store
        self._seed = seed
        self._block_shards = block_shards
        self._access = RandomAccess(shards)
        self._train, self._held_out = select(store, held_out, left_out, apart=True)

    @property
    def place(self) -> Location:
        """Where the features are."""
        return self._store.root

    @property
    def clips(self) -> int:
        """Clips that train, each as often as it has views."""
        return self._train.clips

    @property
    def held_out(self) -> int:
        """Clips that are held out, likewise."""
        return self._held_out.clips

    def repeats(self, samples: int) -> float | None:
        """Return how often each frame comes under each view when so many are drawn."""
        return samples / (self.clips * self._store.frames)

    def training_source(self) -> Source:
        """Return the frames that train."""
        return self._source(self._train, ClipOrder(self._train.shard_sizes, self._seed, self._block_shards))

    def held_out_source(self) -> Source:
        """Return one frame of each view of the clips that are held out."""
        return self._source(self._held_out, InOrder())

    def _source(self, selection: Selection, order: ClipOrder | InOrder) -> StoreFrames:
        assert self.trainer is not None
        device: torch.device = self.trainer.strategy.root_device
        pool = live_pool(decode_threads(device.type), for_gpu=device.type == "cuda")
        return StoreFrames(self._store, self._access, selection, order, self._seed, pool)


class StoreFrames:
    """Reads frames: features by the store's threads, pixels by those of a pool."""

    def __init__(
        self,
        store: FeatureStore,
        access: RandomAccess,
        selection: Selection,
        order: ClipOrder | InOrder,
        seed: int,
        pool: PerProcess[ThreadPoolExecutor],
    ) -> None:
        self.clips = selection.clips
        self._store = store
        self._access = access
        self._selection = selection
        self._order = order
        self._seed = seed_of(seed, "frame")
        self._pool = pool
        self._frames_per_step = access.shards.identity.integer("frames") // store.frames

    def frames(self, places: Int64[np.ndarray, " B"]) -> list[tuple[int, int]]:
        """Return the sample and the frame (the step of features) at each place.

        The frames follow each other from visit to visit, from one on that is drawn for each view of a clip.
        """
        at = self._order.at(places)
        first = scramble(self._seed, at.clip) % np.uint64(self._store.frames)
        frames = (first.astype(np.int64) + at.epoch) % self._store.frames
        return list(zip(self._selection.at(at).tolist(), frames.tolist(), strict=True))

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._store.key_of(sample) for sample, _ in self.frames(places))

    def start(
        self,
        places: Int64[np.ndarray, " B"],
        out: Float[Tensor, "B 1 P D"] | None = None,  # noqa: ARG002 (it has no buffer)
    ) -> Callable[[], Batch]:
        """Begin to read features and pixels."""
        frames = self.frames(places)
        reading = self._store.start_frames(frames)
        views = views_of(self._store, [sample for sample, _ in frames])
        pixels = [
            self._pool.get().submit(self._pixels, sample, frame, view)
            for (sample, frame), view in zip(frames, views, strict=True)
        ]

        def finish() -> Batch:
            data = reading.result()
            shown = torch.stack([each.result() for each in pixels])
            return Batch("features", data, torch.zeros(len(frames), 1), places, self._store.grid, pixels=shown)

        return finish

    def buffer(self, samples: int) -> None:
        """Return nothing: RGB heads are trained from one set."""

    def _pixels(self, sample: int, frame: int, view: View) -> UInt8[Tensor, "3 H W"]:
        """Return what a view shows of a frame, at the store's size."""
        unit, key = self._store.unit_of(sample), self._store.key_of(sample)
        number = (frame + 1) * self._frames_per_step - 1
        try:
            ((name, data),) = self._access.read(unit, key, [number])[1]
            image = cut(decode_frame_file(data, name), view.crop)
            planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
            return crop_resize(planes, view.of_cut, self._store.identity.size)[0]
        except (SourceError, LookupError, ValueError) as error:
            raise DamagedError(
                f"frame {number} of clip {key} of shard {unit} cannot be used: {error}; deltactl verify "
                f"{self._access.shards.root} says more"
            ) from error
