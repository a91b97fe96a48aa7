"""Live training: clips read from shards and cropped afresh at every visit, for the frozen networks in the loop.

A clip's crop in epoch e is the crop of view e of a feature store with the same seed, so that live training and training
from a store with enough views see the same features. Frames lie anywhere in their tar, which is read at the places
that its headers name; the headers must name the clips of the tar's sidecar. (The tar's hash is not computed, for that
would read all of it; `deltactl verify` does.)

Costs a decode and a resize of each frame, in threads: about 4 ms at 512 px.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from deltactl.errors import DamagedError, SourceError
from deltactl.featurize.crops import crop_resize
from deltactl.featurize.per_process import PerProcess
from deltactl.featurize.views import training_view
from deltactl.ingest.images import decode_frame_file
from deltactl.ingest.shards import NO_DEPTH, ClipMeta, ShardSet, open_tar
from deltactl.ingest.tars import DESCRIPTION, Member, description_of, find_members, group_members
from deltactl.train.batches import Batch
from deltactl.train.draws import seed_of
from deltactl.train.order import ClipOrder
from deltactl.train.selection import Selection
from deltactl.train.sources import first_frames
from deltactl.train.validation import InOrder

PICTURES, LABELS = ("jpg", "png"), ("mask.png", "depth.png")


class TarClips:
    """The files of each clip of a set of shards, found by the headers of its tars, which are read once."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self.identity = shards.identity
        self._members: dict[str, dict[str, dict[str, Member]]] = {}
        self._lock = PerProcess(threading.Lock)

    def read(self, unit: str, key: str, frames: Sequence[int] | None) -> tuple[ClipMeta, list[tuple[str, bytes]]]:
        """Return a clip's description, and name and bytes of the frames asked for (None: all)."""
        members = self._of(unit)[key]
        images = [f"{number}.{kind}" for number, kind in _numbered(members) if kind in PICTURES]
        place = self._shards.root / f"{unit}.tar"
        with open_tar(place) as file:

            def content(name: str) -> bytes:
                file.seek(members[name].offset)
                return file.read(members[name].size)

            meta = ClipMeta.from_json(content(DESCRIPTION), description_of(key, place))
            if len(images) != len(meta.times):
                raise SourceError(f"it has {len(images)} frames and {len(meta.times)} times")
            chosen = images if frames is None else [images[frame] for frame in frames]
            return meta, [(f"{key}.{name}", content(name)) for name in chosen]

    def labels(self, unit: str) -> list[tuple[str, int]]:
        """Return key and frame of every label in a shard, in order."""
        return sorted(
            (key, int(number))
            for key, members in self._of(unit).items()
            for number, kind in _numbered(members)
            if kind in LABELS and not (kind == "depth.png" and members[f"{number}.{kind}"].size == len(NO_DEPTH))
        )

    def read_label(self, unit: str, key: str, frame: int) -> bytes:
        """Return the label of a frame as it was stored."""
        members = self._of(unit)[key]
        member = next(
            members[f"{number}.{kind}"]
            for number, kind in _numbered(members)
            if kind in LABELS and int(number) == frame
        )
        with open_tar(self._shards.root / f"{unit}.tar") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def _of(self, unit: str) -> dict[str, dict[str, Member]]:
        with self._lock.get():
            if unit not in self._members:
                self._members[unit] = self._index(unit)
            return self._members[unit]

    def _index(self, unit: str) -> dict[str, dict[str, Member]]:
        place = self._shards.root / f"{unit}.tar"
        sidecar = self._shards.sidecar(unit)
        with open_tar(place) as file:
            found = dict(group_members(find_members(file, place), place))
        if tuple(found) != sidecar.keys:
            raise DamagedError(
                f"{place} is damaged: it holds {len(found)} clips, its sidecar names {sidecar.count}; "
                "remove its sidecar and run ingest again"
            )
        return found


def _numbered(members: Mapping[str, Member]) -> list[tuple[str, str]]:
    """Return the number and the kind of each member that is a picture or label of a frame, in order of the numbers."""
    parts = (name.partition(".") for name in members)
    return sorted(((number, kind) for number, _, kind in parts if number.isdecimal()), key=lambda part: int(part[0]))


class LiveClips:
    """Frames of clips (or of pairs of consecutive ones), cropped for this visit."""

    def __init__(
        self,
        shards: ShardSet,
        selection: Selection,
        keys: Sequence[str],
        order: ClipOrder | InOrder,
        *,
        take: Literal["pairs", "clips"],
        frames: int,
        size: int,
        seed: int,
        threads: int,
        for_gpu: bool = False,
        pairs_per_clip: int = 1,
    ) -> None:
        """`for_gpu`: whether a GPU computes, and the cores have nothing to do but this."""
        self.clips = selection.clips
        self._tars = TarClips(shards)
        self._units = [unit for unit in shards.units for _ in range(shards.clips_in(unit))]
        self._selection = selection
        self._keys = keys
        self._order = order
        self._take = take
        self._frames = frames
        self._size = size
        self._seed = seed
        self._pairs_per_clip = pairs_per_clip if take == "pairs" else 1
        self._for_gpu = for_gpu
        self._pool = PerProcess(partial(ThreadPoolExecutor, threads, thread_name_prefix="live"))
        if for_gpu:
            # Each thread would keep a team of threads of its own for a resize, one for every core.
            torch.set_num_threads(1)
            cv2.setNumThreads(1)

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._keys[clip] for clip, _ in self._visits(places))

    def start(self, places: Int64[np.ndarray, " B"]) -> Callable[[], Batch]:
        """Begin to decode and crop the frames."""
        chosen: list[list[int] | None] = [None] * len(places)
        if self._take == "pairs":
            visits, turns = np.divmod(places, self._pairs_per_clip)
            first = first_frames(seed_of(self._seed, "pair"), visits, turns, self._frames)
            chosen = [[int(frame), int(frame) + 1] for frame in first]
        length = 2 if self._take == "pairs" else self._frames
        shape = (len(places), length, 3, self._size, self._size)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._for_gpu)
        futures = [
            self._pool.get().submit(self._read, clip, view, frames, out)
            for (clip, view), frames, out in zip(self._visits(places), chosen, pixels, strict=True)
        ]
        return partial(_gather, futures, pixels, places)

    def _visits(self, places: Int64[np.ndarray, " B"]) -> list[tuple[int, int]]:
        """Return the clip at each place, and the view that it shows there: the epoch's."""
        at = self._order.at(places // self._pairs_per_clip)
        clips = self._selection.samples[0, at.clip]
        return list(zip(clips.tolist(), at.epoch.tolist(), strict=True))

    def _read(self, clip: int, view: int, frames: list[int] | None, out: UInt8[Tensor, "T 3 S S"]) -> list[float]:
        """Write a clip's crops to its place in the batch, and return their times, from its first frame."""
        key, unit = self._keys[clip], self._units[clip]
        try:
            meta, files = self._tars.read(unit, key, frames)
            if len(meta.times) != self._frames:
                raise SourceError(f"it has {len(meta.times)} frames; {self._frames} were expected")
            images = [decode_frame_file(data, name) for name, data in files]
        except SourceError as error:
            raise DamagedError(
                f"clip {key} of shard {unit} cannot be used: {error}; deltactl verify says more"
            ) from error
        shown = training_view(self._seed, key, view, *images[0].shape[:2])
        box = shown.crop
        cuts = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
        planes = torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2)
        out.copy_(crop_resize(planes, shown.of_cut, self._size))
        numbers = range(len(meta.times)) if frames is None else frames
        return [meta.times[number] - meta.times[0] for number in numbers]


def _gather(
    futures: list[Future[list[float]]], pixels: UInt8[Tensor, "B T 3 S S"], places: Int64[np.ndarray, " B"]
) -> Batch:
    times = [future.result() for future in futures]
    return Batch("frames", pixels, torch.tensor(times, dtype=torch.float32), places)
