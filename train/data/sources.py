"""What training reads: pairs of frames from a feature store, clips from a store, or clips of tokens held in memory.

Takes places of the stream, returns batches. Stores read in their own threads, as soon as a read is started. Tokens are
so small (12 kB a clip of 8 frames of one) that all of them are copied once to one file in memory that the processes of
a machine share, or to the device; a batch of them is then one gather.

Shapes: B batch · T frames of a clip · K tokens of a frame · P patches · D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from deltactl.featurize.store.carried import from_rows
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.train.data.batches import Batch
from deltactl.train.data.carried import of_pairs
from deltactl.train.data.draws import scramble, seed_of
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.selection import Selection
from deltactl.train.data.validation import InOrder

LOAD_CLIPS = 4096
"""Clips of tokens that are read at a time when they are loaded."""

LARGEST_SHARE = 0.5
"""Of the free memory, that tokens may take; larger sets are read from the store at every step."""


class StorePairs:
    """Two consecutive frames of a clip for each place, from a feature store.

    A clip is visited for `pairs_per_clip` places in a row, which get different pairs as long as it has so many.
    """

    def __init__(
        self, store: FeatureStore, selection: Selection, order: ClipOrder | InOrder, seed: int, pairs_per_clip: int = 1
    ) -> None:
        self.clips = selection.clips
        self._store = store
        self._selection = selection
        self._order = order
        self._seed = seed_of(seed, "pair")
        self._pairs_per_clip = pairs_per_clip

    def pairs(self, places: Int64[np.ndarray, " B"]) -> list[tuple[int, int]]:
        """Return the sample and the first frame of the pair at each place."""
        visits, turns = np.divmod(places, self._pairs_per_clip)
        samples = self._selection.at(self._order.at(visits))
        first = first_frames(self._seed, visits, turns, self._store.frames)
        return list(zip(samples.tolist(), first.tolist(), strict=True))

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._store.keys[sample] for sample, _ in self.pairs(places))

    def start(
        self, places: Int64[np.ndarray, " B"], out: Float[Tensor, "B 2 P D"] | None = None
    ) -> Callable[[], Batch]:
        """Begin to read the pairs."""
        return start_pairs(self._store, self.pairs(places), places, out)

    def buffer(self, samples: int) -> Float[Tensor, "B 2 P D"]:
        """Return what pairs are read into."""
        return self._store.pair_buffer(samples)


class StoreClips:
    """Whole clips from a feature or token store."""

    def __init__(self, store: ClipStore, selection: Selection, order: ClipOrder | InOrder) -> None:
        self.clips = selection.clips
        self._store = store
        self._selection = selection
        self._order = order

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._store.keys[sample] for sample in self._samples(places))

    def start(
        self, places: Int64[np.ndarray, " B"], out: Float[Tensor, "B T *frame"] | None = None
    ) -> Callable[[], Batch]:
        """Begin to read the clips."""
        return start_clips(self._store, self._samples(places), places, out)

    def buffer(self, samples: int) -> Float[Tensor, "B T *frame"]:
        """Return what clips are read into."""
        return self._store.clip_buffer(samples)

    def _samples(self, places: Int64[np.ndarray, " B"]) -> list[int]:
        return list(map(int, self._selection.at(self._order.at(places))))


class TokenClips:
    """Clips of tokens from a table in memory."""

    def __init__(self, table: TokenTable, store: TokenStore, selection: Selection, order: ClipOrder | InOrder) -> None:
        self.clips = selection.clips
        self._table = table
        self._store = store
        self._selection = selection
        self._order = order

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the clips' keys."""
        return tuple(self._store.keys[sample] for sample in self._selection.at(self._order.at(places)).tolist())

    def start(
        self,
        places: Int64[np.ndarray, " B"],
        out: Float[Tensor, "B T K D"] | None = None,  # noqa: ARG002 (it has no buffer)
    ) -> Callable[[], Batch]:
        """Gather the clips when they are asked for."""
        samples = self._selection.at(self._order.at(places))
        return lambda: self._table.batch(samples, places)

    def buffer(self, samples: int) -> None:
        """Return nothing: a gather makes a batch of its own."""


class TokenTable:
    """All tokens of a store, their times and columns, in a file that processes share; tokens perhaps on the device.

    One process of each machine calls `fill`, then all of them `TokenTable`, then one `remove` (the memory stays until
    the last process ends).
    """

    def __init__(self, store: TokenStore, name: str, device: torch.device) -> None:
        tokens, times, self._carried = _map(store, name)
        if device.type == "cuda" and tokens.nbytes < LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]:
            tokens, times = tokens.to(device), times.to(device)
        self.tokens: Float[Tensor, "sample T K D"] = tokens
        self.times: Float32[Tensor, "sample T"] = times
        self._layout = store.layout

    @staticmethod
    def fits(*stores: TokenStore) -> bool:
        """Whether the tokens take at most half of the free memory and of the temporary folder's disk."""
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        disk = os.statvfs(tempfile.gettempdir())
        wanted = sum(len(store) * (store.layout.clip_bytes + store.layout.carried_bytes) for store in stores)
        return wanted < LARGEST_SHARE * min(free, disk.f_bavail * disk.f_frsize)

    @staticmethod
    def is_filled(name: str) -> bool:
        """Whether one process has decided to copy the tokens, and done so."""
        return _table_file(name).exists()

    @staticmethod
    def fill(store: TokenStore, name: str) -> None:
        """Copy tokens, times and columns from the store, every byte checked."""
        tokens, times, carried = _map(store, name)
        for first in range(0, len(store), LOAD_CLIPS):
            samples = range(first, min(first + LOAD_CLIPS, len(store)))
            tokens[first : samples.stop] = store.read_clips(samples)
            times[first : samples.stop] = since_start(store.times(samples))
            if store.layout.carried_bytes:
                carried[first : samples.stop] = store.start_rows(samples).result()

    @staticmethod
    def remove(name: str) -> None:
        """Let go of the file; what has it open keeps it."""
        with contextlib.suppress(FileNotFoundError):
            _table_file(name).unlink()

    def batch(self, samples: Int64[np.ndarray, " B"], places: Int64[np.ndarray, " B"]) -> Batch:
        """Return the clips of these samples."""
        index = torch.from_numpy(samples)
        if self.tokens.is_cuda:
            index = index.pin_memory().to(self.tokens.device, non_blocking=True)  # from other memory it would wait
        carried = from_rows(self._carried.numpy()[samples], self._layout.carried, self._layout.frames)
        columns = {name: torch.from_numpy(values) for name, values in carried.items()}
        return Batch("tokens", self.tokens[index], self.times[index], places, columns=columns)


def _map(store: TokenStore, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mapped tokens, times and columns (as rows of bytes); the file is made where it is absent."""
    samples, frames, width = len(store), store.frames, store.layout.carried_bytes
    sizes = (4 * samples * frames, samples * store.layout.clip_bytes, samples * width)
    storage = torch.from_file(str(_table_file(name)), shared=True, size=sum(sizes), dtype=torch.uint8)
    times, tokens, carried = storage.split(sizes)
    tokens = tokens.view(store.dtype).view(samples, frames, *store.frame_shape)
    return tokens, times.view(torch.float32).view(samples, frames), carried.view(samples, width)


def _table_file(name: str) -> Path:
    """Return the file of a table; its name tells users and runs apart."""
    short = hashlib.sha256(name.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"deltactl-tokens-{os.getuid()}-{short}"


# --- reads of a store ------------------------------------------------------------------------------------------------


def first_frames(
    seed: int, visits: Int64[np.ndarray, " B"], turns: Int64[np.ndarray, " B"], frames: int
) -> Int64[np.ndarray, " B"]:
    """Return the first frame of the pair for each visit of a clip; turns of one visit follow each other in the clip."""
    start = scramble(seed, visits) % np.uint64(frames - 1)
    return (start.astype(np.int64) + turns) % (frames - 1)


def start_pairs(
    store: FeatureStore,
    pairs: list[tuple[int, int]],
    places: Int64[np.ndarray, " B"],
    out: Float[Tensor, "B 2 P D"] | None = None,
) -> Callable[[], Batch]:
    """Begin to read pairs (sample, first frame) of a store, into `out` where one is given."""
    samples = [sample for sample, _ in pairs]
    reading, carried = store.start_pairs(pairs, out), store.start_columns(samples)

    def finish() -> Batch:
        times = since_start(store.times(samples))
        index = torch.tensor([[first, first + 1] for _, first in pairs])
        columns = of_pairs(carried(), index)
        return Batch("features", reading.result(), times.gather(1, index), places, store.grid, columns=columns)

    return finish


def start_clips(
    store: ClipStore,
    samples: list[int],
    places: Int64[np.ndarray, " B"],
    out: Float[Tensor, "B T *frame"] | None = None,
) -> Callable[[], Batch]:
    """Begin to read clips of a store, into `out` where one is given."""
    reading, carried = store.start_clips(samples, out), store.start_columns(samples)

    def finish() -> Batch:
        times = since_start(store.times(samples))
        if isinstance(store, FeatureStore):
            return Batch("features", reading.result(), times, places, store.grid, columns=carried())
        return Batch("tokens", reading.result(), times, places, columns=carried())

    return finish


def since_start(times: Float[Tensor, "B T"]) -> Float32[Tensor, "B T"]:
    """Return times counted from each clip's first frame; float32 is exact enough only after the subtraction."""
    return (times - times[:, :1]).float()
