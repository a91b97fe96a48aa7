"""Opens a feature store (or a token store) and reads any clips or frame pairs of it, whole and checked or not at all.

    store = FeatureStore.open("workspace/features/kinetics-vitb16-512")
    features = store.read_clips([5, 2, 9])              (3, T, P, D) of the store's dtype
    reading = store.start_pairs([(5, 0), (2, 3)])       begins; goes on while the caller works
    pairs = reading.result()                            (2, 2, P, D)

A *sample* is one clip under one view; samples are numbered 0 … len(store) - 1, by view, then shard, then row, leaving
out those that are not valid. Opening reads two small files, whatever the size of the store. Reads run in threads (or in
tensorstore's, for a store under s3://) into one buffer of the caller's; every byte is checked against its checksum,
and what is damaged or missing is a DamagedError that names it, never zeros. No worker processes are needed; those of a
`DataLoader` can be handed an open store all the same, forked or spawned, after any number of reads: each reads in
threads of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Shaped
from torch import Tensor

from deltactl.artifacts import Identity, read_header
from deltactl.errors import ArtifactError
from deltactl.featurize.store.carried import from_rows
from deltactl.featurize.store.dropped import dropped_note
from deltactl.featurize.store.group import BlackFrame, GroupHandle, Span
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, Layout, group_name
from deltactl.featurize.store.numbers import stored_numbers, torch_dtype
from deltactl.featurize.store.packs import Packs
from deltactl.featurize.store.reads import Reader, Reading, make_reader
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.store.texts import read_texts
from deltactl.ingest.shards.clip_index import Origins
from deltactl.ingest.shards.columns import Columns
from deltactl.locations import Location
from deltactl.per_process import PerProcess, is_forked

log = logging.getLogger(__name__)

StoreT = TypeVar("StoreT", bound="ClipStore")

LATE_SECONDS = 8192.0
"""From here on float32 keeps times to a millisecond or worse."""


def coarse_times(root: Location, late: float) -> str:
    """Return what is wrong with times about so late, in seconds, that a group keeps as float32."""
    return (
        f"{root}: frame times such as {late:.0f} s were kept to the nearest {np.spacing(np.float32(late)):.2g} s by an "
        "earlier version"
    )


class ClipStore:
    """What feature and token stores share; open one with `FeatureStore.open` or `TokenStore.open`."""

    kind = "features"

    def __init__(
        self,
        root: Location,
        identity: Identity,
        provenance: Mapping[str, Any],
        index: StoreIndex,
        views: Sequence[int],
        generations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.root = root
        self.identity = identity
        self.provenance = provenance
        self.generations = tuple(generations)
        """What was added to the shards since their first generation, as far as the store covers it."""
        self.unfinished: str | None = index.unfinished_note()
        """What the store lacks, in words; None where it is complete."""
        self.awaited: tuple[str, ...] = index.awaited
        """Shards that were still to come when it was made of an unfinished set."""
        self.layout: Layout = index.layout
        self.views: tuple[int, ...] = tuple(views)
        """Numbers of the views that samples come from, in order."""
        self._index = index
        self._units = sorted(index.keys)
        self._groups: dict[tuple[int, int], GroupHandle] = {}
        self._packs = Packs(root)
        self._view, self._unit, self._row = index.samples(self.views)
        self._reader: PerProcess[Reader] = PerProcess(partial(make_reader, root))
        self._warned_of_times = False

    def __getstate__(self) -> dict[str, Any]:
        # What was looked up is looked up again; it can be larger than the store's index.
        looked_up = ("keys", "black", "_numbers", "_group_samples")
        return {**{name: value for name, value in self.__dict__.items() if name not in looked_up}, "_groups": {}}

    @classmethod
    def open(cls: type[StoreT], place: str | Location, *, views: Sequence[int] | None = None) -> StoreT:
        """Open the store at a path or URL.

        `views`: which to use, by default all that are whole (a view that is being added or dropped is left out).

        Raises:
            ArtifactError: there is no such store, it holds something else, or a view that is asked for is not whole.
            DamagedError: its header or index is damaged.
        """
        root = Location.of(place)
        header = read_header(root)
        if header.identity.kind != cls.kind:
            raise ArtifactError(f"{root} holds {header.identity.kind}; {cls.kind} were expected")
        index = StoreIndex.read(root)
        whole = index.whole_views()
        if views is None:
            views = whole
        elif absent := [view for view in views if view not in whole]:
            known = ", ".join(map(str, whole)) or "none"
            note = dropped_note(root, absent[:1]) if absent[0] not in index.views else None
            raise ArtifactError(
                f"{root} has no whole view {absent[0]} (whole: {known}{f'; {note}' if note else ''}); run: deltactl "
                f"featurize with --views {absent[0]}:{absent[0] + 1}"
            )
        if not views:
            raise ArtifactError(f"{root} has no whole view: {index.progress()}; run deltactl featurize again")
        return cls(root, header.identity, header.provenance, index, views, header.generations)

    def __len__(self) -> int:
        return len(self._row)

    def __enter__(self: StoreT) -> StoreT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the threads that read."""
        if (reader := self._reader.take()) is not None:
            reader.close()

    # --- what is in it ---

    @property
    def frames(self) -> int:
        """Frames in a clip, `T`."""
        return self.layout.frames

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: (P, D) of features, (K, D) of tokens."""
        return self.layout.item_shape

    @property
    def dim(self) -> int:
        """Width of a patch's features or of a token, `D`."""
        return self.layout.frame_shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers, `torch.float16` or `torch.bfloat16`."""
        return torch_dtype(self.layout.dtype)

    @property
    def statistics(self) -> Statistics | None:
        """Mean and standard deviation of each channel over all readable clips; None where they were not recorded."""
        return self._index.statistics

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the shards that the store was made from, in order."""
        return tuple(self._units)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The clip's key for each sample; a key comes once for each view."""
        keys = [self._index.keys[unit] for unit in self._units]
        return tuple(keys[unit][row] for unit, row in zip(self._unit.tolist(), self._row.tolist(), strict=True))

    @property
    def origins(self) -> Origins:
        """View, shard (its position among `units`) and row in the shard of every sample."""
        return self._view, self._unit, self._row

    def units_of(self, view: int) -> tuple[str, ...]:
        """Return the shards that a view has a group of, in order."""
        return tuple(sorted(self._index.views[view]))

    def sources_of(self, unit: str) -> Sequence[str]:
        """Return the name of the source of each clip of a shard, those that cannot be read included, row by row."""
        return self._index.sources[unit]

    def keys_of(self, unit: str) -> Sequence[str]:
        """Return the key of each clip of a shard, those that cannot be read included, row by row."""
        return self._index.keys[unit]

    def clips_in(self, unit: str) -> int:
        """Return the number of clips of a shard, those that cannot be read included."""
        return len(self._index.keys[unit])

    def samples_of(self, view: int, unit: str) -> tuple[list[int], list[int]]:
        """Return the samples of a group and the row of each: its clips that can be read, in order."""
        samples = self._group_samples.get((view, unit), range(0))
        return list(samples), self._row[samples.start : samples.stop].tolist()

    @cached_property
    def _group_samples(self) -> dict[tuple[int, str], range]:
        """Where the samples of each group that has any lie among all samples."""
        changes = (np.diff(self._view, prepend=-1) != 0) | (np.diff(self._unit, prepend=-1) != 0)
        starts = np.flatnonzero(changes).tolist()
        return {
            (int(self._view[start]), self._units[int(self._unit[start])]): range(start, end)
            for start, end in zip(starts, [*starts[1:], len(self)], strict=True)
        }

    def group_hashes(self) -> dict[str, str]:
        """Return the hash of each group that samples come from, by its name such as `v000/000017`."""
        return {
            group_name(view, unit): entry.sha256
            for view in self.views
            for unit, entry in self._index.views[view].items()
        }

    def view_of(self, sample: int) -> int:
        """Return the view that a sample shows."""
        return int(self._view[sample])

    def unit_of(self, sample: int) -> str:
        """Return the shard that a sample's clip lies in."""
        return self._units[int(self._unit[sample])]

    def key_of(self, sample: int) -> str:
        """Return the key of a sample's clip, without looking up those of all others as `keys` does."""
        return self._index.keys[self.unit_of(sample)][int(self._row[sample])]

    def find(self, key: str, view: int = 0) -> int:
        """Return the number of a sample; KeyError: the clip has no such view, is quarantined, or is not there."""
        return self._numbers[key, view]

    def views_of(self, key: str) -> tuple[int, ...]:
        """Return the views in which a clip can be read; of an evaluation set: its square crops. Empty: unreadable."""
        return tuple(view for view in self.views if (key, view) in self._numbers)

    @cached_property
    def _numbers(self) -> dict[tuple[str, int], int]:
        return {pair: number for number, pair in enumerate(zip(self.keys, self._view.tolist(), strict=True))}

    def times(self, samples: Sequence[int]) -> Float64[Tensor, "sample frames"]:
        """Return the times of the samples' frames, in seconds of the source's clock (not from 0)."""
        times = self._small("times", samples)
        self._warn_of_short_times(samples, times)
        return torch.from_numpy(times)

    def crops(self, samples: Sequence[int]) -> Int32[Tensor, "sample 4"]:
        """Return each sample's crop: top, left, height, width in pixels of the stored frame."""
        return torch.from_numpy(self._small("crop", samples))

    def flips(self, samples: Sequence[int]) -> Shaped[Tensor, " sample"]:
        """Return whether each sample's crop was mirrored."""
        return torch.from_numpy(self._small("flip", samples))

    @property
    def columns(self) -> Columns:
        """What samples carry besides."""
        return self.layout.carried

    def start_columns(self, samples: Sequence[int]) -> Callable[[], dict[str, Shaped[Tensor, "sample ..."]]]:
        """Begin to read the numbers that samples carry.

        The result waits for them: (sample, T, …) by name, or (sample, …) of what belongs to the clip. Raises as
        `Reading.result`.
        """
        if not self.layout.carried_bytes or not samples:
            return dict
        reading = self.start_rows(samples)

        def finish() -> dict[str, Tensor]:
            values = from_rows(reading.result().numpy(), self.layout.carried, self.frames)
            return {name: torch.from_numpy(each) for name, each in values.items()}

        return finish

    def start_rows(self, samples: Sequence[int]) -> Reading:
        """Begin to read the same as rows of bytes (sample, byte), as `carried.from_rows` takes them."""
        rows = torch.empty((len(samples), self.layout.carried_bytes), dtype=torch.uint8)
        spans = [self._group(sample).columns().span(int(self._row[sample])) for sample in samples]
        return Reading(rows, self._reader.get().start_rows(spans, rows.numpy()) if spans else [])

    def texts(self, samples: Sequence[int]) -> dict[str, list[Any]]:
        """Return the texts that samples carry, by column: one for each, or lists of them."""
        clips = [(self.view_of(each), self.unit_of(each), int(self._row[each])) for each in samples]
        return read_texts(self.root, clips, self.layout.carried)

    def _small(self, name: str, samples: Sequence[int]) -> Shaped[np.ndarray, "sample *rest"]:
        shape, dtype = self.layout.small_shape(name)
        out = np.empty((len(samples), *shape), dtype)
        for number, sample in enumerate(samples):
            out[number] = self._group(sample).small(name)[self._row[sample]]
        return out

    def _warn_of_short_times(self, samples: Sequence[int], times: Float[np.ndarray, "sample frames"]) -> None:
        """Say once where a group made earlier keeps late times so coarsely that they are wrong."""
        if self._warned_of_times:
            return
        for number in np.flatnonzero((np.abs(times) >= LATE_SECONDS).any(1)).tolist():
            group, late = self._group(samples[number]), float(np.abs(times[number]).max())
            if group.small("times").dtype == np.float32:
                remedy = "make the store again from its shards, which keep them exactly"
                log.warning("%s; %s", coarse_times(group.root, late), remedy)
                self._warned_of_times = True
                return

    # --- reading ---

    def clip_buffer(self, samples: int) -> Float[Tensor, "sample frames *frame"]:
        """Return a buffer for `read_clips`, to be used again and again: pinned where there is a GPU, but in workers."""
        return self._buffer(samples, self.frames)

    def pair_buffer(self, pairs: int) -> Float[Tensor, "pair 2 *frame"]:
        """Return a buffer for `read_pairs`, likewise."""
        return self._buffer(pairs, 2)

    def read_clips(
        self, samples: Sequence[int], out: Float[Tensor, "sample frames *frame"] | None = None
    ) -> Float[Tensor, "sample frames *frame"]:
        """Return the samples' frames, in the order asked for; into `out` where one is given."""
        return self.start_clips(samples, out).result()

    def read_pairs(
        self, pairs: Sequence[tuple[int, int]], out: Float[Tensor, "pair 2 *frame"] | None = None
    ) -> Float[Tensor, "pair 2 *frame"]:
        """Return frames `t` and `t + 1` of a sample for each (sample, t)."""
        return self.start_pairs(pairs, out).result()

    def __getitem__(self, sample: int) -> Float[Tensor, "frames *frame"]:
        """Return one sample's frames, so that a store is a data set as `torch.utils.data` wants it."""
        clip: Tensor = self.read_clips([sample])[0]
        return clip

    def read_clip(self, key: str, view: int = 0) -> Float[Tensor, "frames *frame"]:
        """Return one clip by its key; KeyError as `find`."""
        clip: Tensor = self.read_clips([self.find(key, view)])[0]
        return clip

    def start_clips(self, samples: Sequence[int], out: Float[Tensor, "sample frames *frame"] | None = None) -> Reading:
        """Begin `read_clips`; several may be under way, each with a buffer of its own."""
        spans = [Span(self._group(sample), int(self._row[sample]), 0, self.frames) for sample in samples]
        return self._start(spans, self.clip_buffer(len(spans)) if out is None else out)

    def start_pairs(
        self, pairs: Sequence[tuple[int, int]], out: Float[Tensor, "pair 2 *frame"] | None = None
    ) -> Reading:
        """Begin `read_pairs`.

        Raises:
            ValueError: a pair would reach beyond the clip.
        """
        if self.layout.chunk_frames != 1:
            raise ValueError("pairs are read from feature stores; read the clips of a token store")
        for sample, frame in pairs:
            if not 0 <= frame < self.frames - 1:
                raise ValueError(f"frame {frame} of sample {sample}: a pair begins at 0 … {self.frames - 2}")
        spans = [Span(self._group(sample), int(self._row[sample]), frame, 2) for sample, frame in pairs]
        return self._start(spans, self.pair_buffer(len(spans)) if out is None else out)

    def start_frames(self, frames: Sequence[tuple[int, int]]) -> Reading:
        """Begin to read frame `t` of a sample for each (sample, t), into a new (frame, 1, *frame) buffer."""
        if self.layout.chunk_frames != 1:
            raise ValueError("single frames are read from feature stores; read the clips of a token store")
        spans = [Span(self._group(sample), int(self._row[sample]), frame, 1) for sample, frame in frames]
        return self._start(spans, self._buffer(len(spans), 1))

    def _start(self, spans: Sequence[Span], out: Tensor) -> Reading:
        count = spans[0].count if spans else out.shape[1]
        if out.shape[1:] != (count, *self.frame_shape):
            raise ValueError(f"the buffer has shape {tuple(out.shape)}, expected (n, {count}, *{self.frame_shape})")
        if len(out) < len(spans) or out.dtype != self.dtype or not out.is_contiguous() or out.is_cuda:
            raise ValueError(
                f"the buffer must be contiguous {self.layout.dtype} in main memory, with a row for each item"
            )
        out = out[: len(spans)]
        return Reading(out, self._reader.get().start(spans, stored_numbers(out)) if spans else [])

    def _buffer(self, items: int, frames: int) -> Tensor:
        # A worker of a DataLoader would open the GPU for that, which a forked one cannot.
        pinned = torch.cuda.is_available() and not is_forked() and torch.utils.data.get_worker_info() is None
        return torch.empty((items, frames, *self.frame_shape), dtype=self.dtype, pin_memory=pinned)

    def _group(self, sample: int) -> GroupHandle:
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)} in {self.root}")
        place = int(self._view[sample]), int(self._unit[sample])
        if place not in self._groups:
            self._groups[place] = self._index.group(self.root, place[0], self._units[place[1]], self._packs)
        return self._groups[place]


class FeatureStore(ClipStore):
    """Patch features of clips: `features` (clip, frame, patch, dim), one group for each view and shard."""

    kind = "features"

    @property
    def patches(self) -> int:
        """Patches in a frame, `P`."""
        return self.layout.frame_shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; their product is `patches`, row-major."""
        rows, columns = self._index.grid
        return rows, columns

    @cached_property
    def black(self) -> Float32[Tensor, "patch dim"]:
        """The backbone's features of an all-zero frame, before which the first frame of a clip stands."""
        black = BlackFrame(self.root, self._index.files.get(f"{BLACK}/{GROUP_FILE}"), self.layout.frame_shape)
        return torch.from_numpy(black.read().copy())


class TokenStore(ClipStore):
    """Delta tokens of clips: `tokens` (clip, frame, token, dim), one group for each view and shard."""

    kind = "tokens"

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame, `K`."""
        return self.frame_shape[0]
