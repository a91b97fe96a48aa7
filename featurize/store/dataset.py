"""A feature store or a token store as a map-style data set of PyTorch, for notebooks and for any training loop.

    data = StoreDataset("workspace/features/videos-vitb16-256")     or tokens, or an s3:// URL
    data[0]["features"]                                             (T, P, D) of the store's dtype
    data.batch([3, 1])["features"]                                  (2, T, P, D)
    DataLoader(data, batch_size=64, shuffle=True, num_workers=4, collate_fn=data.collate)

An item is one clip under one view, or with `take="pairs"` two frames of it that follow each other, with its columns,
times and names. Opening reads two small files. Threads and connections are made in the process that reads: a data set
can be pickled, and handed to workers that were forked or spawned, before and after it was read. A batch is one read of
all its items, side by side; every byte is checked against its checksum.

Shapes: B items · T frames of a clip, 2 of a pair · P patches · K tokens of a frame · D width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from deltactl.artifacts import read_header
from deltactl.featurize.store.carried import from_rows
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.store.texts import KeptTexts
from deltactl.ingest.shards.columns import Columns, is_of_clip
from deltactl.ingest.shards.held_out import held_out_sources
from deltactl.locations import Location

Item = dict[str, Any]
Take = Literal["clips", "pairs"]


class StoreDataset(Dataset[Item]):
    """The clips, or pairs of frames, of a store, as mappings of tensors.

    What an item holds:

    - `features` (T, P, D) or `tokens` (T, K, D), in the store's dtype, float16 or bfloat16;
    - `times` (T,) float64: seconds on the clock of the source;
    - `columns`: what the clip carries besides, by name: a tensor (T, …) of each column of frames, (…) of each column of
      the clip (`clip.NAME`), or text. Without columns it is empty;
    - `key` text, `view` int and `source` text: the clip, the view that shows it, and the video that it was cut from;
    - `sample` int: its number in `store`; of pairs also `first` int: the frame that the pair begins with.

    The default `collate_fn` of a `DataLoader` makes tensors of numbers and lists of texts. `collate` gives the same and
    is faster: a batch is read into one tensor anyway, and need not be put together from its items once more.
    """

    def __init__(
        self,
        place: str | Location,
        *,
        take: Take = "clips",
        views: Sequence[int] | None = None,
        columns: Collection[str] | None = None,
    ) -> None:
        """Open the store at a path or URL.

        `views`: which to use, by default all that are whole. `columns`: names of those to read, by default all.

        Raises:
            ArtifactError: there is no such store, or a view that is asked for is not whole.
            DamagedError: its header or index is damaged.
            ValueError: it has no such column, or `take` does not go with it.
        """
        if take not in ("clips", "pairs"):
            raise ValueError(f"take is {take!r}; 'clips' or 'pairs' was expected")
        root = Location.of(place)
        kind = TokenStore if read_header(root).identity.kind == TokenStore.kind else FeatureStore
        self.store: ClipStore = kind.open(root, views=views)
        """What is read: grid, black frame, statistics and more of the store are there."""
        self.take = take
        self.columns = _chosen(self.store, columns)
        """The columns that items have."""
        if take == "pairs" and not isinstance(self.store, FeatureStore):
            raise ValueError(f"{root} holds tokens, each of which stands for a pair of frames already; take clips")
        if take == "pairs" and self.store.frames < 2:
            raise ValueError(f"{root} has clips of one frame; pairs need two")
        self._starts = self.store.frames - 1 if take == "pairs" else 1
        """Items that a clip under a view makes."""
        self._sources: dict[str, Sequence[str]] = {}
        """Of the shards that were read, those of their clips."""
        store = self.store
        groups = [(view, unit) for view in store.views for unit in store.units_of(view)]
        self._texts = KeptTexts(root, self.columns, groups, packed=store.layout.packed)

    def __len__(self) -> int:
        return len(self.store) * self._starts

    def __getitem__(self, number: int) -> Item:
        """Return an item; numbers below 0 count from the end."""
        (item,) = self.__getitems__([number])
        return item

    def __getitems__(self, numbers: Sequence[int]) -> Sequence[Item]:
        """Return several items, read at once; a `DataLoader` calls this for each batch."""
        return Items(self.batch(numbers))

    @staticmethod
    def collate(items: Sequence[Item]) -> Item:
        """Return the batch of these items, as `batch` does: a `collate_fn` for a `DataLoader`."""
        batch: Item = items.batch if isinstance(items, Items) else default_collate(list(items))
        return batch

    def batch(self, numbers: Sequence[int]) -> Item:
        """Return several items as one: every tensor with a first axis B, numbers as int64 (B,), texts as lists.

        Raises:
            IndexError: there is no such item.
            DamagedError, StorageError: one could not be read.
        """
        samples, firsts = self._places(numbers)
        store, asked = self.store, samples.tolist()
        frames = 2 if self.take == "pairs" else store.frames
        out = _empty((len(asked), frames, *store.frame_shape), store.dtype)
        if self.take == "pairs":
            reading = store.start_pairs(list(zip(asked, firsts.tolist(), strict=True)), out)
        else:
            reading = store.start_clips(asked, out)
        rows = store.start_rows(asked) if any(not column.is_text for column in self.columns) else None
        shown = firsts[:, None] + np.arange(frames)
        each = np.arange(len(asked))[:, None]
        batch: Item = {
            store.kind: out,
            "times": torch.from_numpy(store.times(asked).numpy()[each, shown]),
            "key": [store.key_of(sample) for sample in asked],
            "source": [self._source(sample) for sample in asked],
            "view": torch.tensor([store.view_of(sample) for sample in asked]),
            "sample": torch.from_numpy(samples),
        }
        if self.take == "pairs":
            batch["first"] = torch.from_numpy(firsts)
        columns: Item = {}
        numbers_of = {} if rows is None else from_rows(rows.result().numpy(), store.columns, store.frames)
        texts = self._texts.of([self._clip(sample) for sample in asked])
        for name in (column.name for column in self.columns):
            if name in texts:
                columns[name] = texts[name]
            else:
                values = numbers_of[name]
                columns[name] = torch.from_numpy(values if is_of_clip(name) else values[each, shown])
        reading.result()
        return {**batch, "columns": columns}

    def texts(self, name: str) -> list[Any]:
        """Return a column of texts of every item, in order, without reading any other part of it.

        Raises:
            ValueError: it has no such column of texts.
        """
        if name not in (column.name for column in self.columns if column.is_text):
            raise ValueError(f"{self.store.root} has no column of texts {name!r}; it has {_named(self.columns)}")
        texts: list[Any] = self._texts.of([self._clip(sample) for sample in range(len(self.store))])[name]
        return texts if self._starts == 1 else [text for text in texts for _ in range(self._starts)]

    def split(self, held_out: float) -> tuple[Subset[Item], Subset[Item]]:
        """Return two parts that share no source: what trains, and about the share `held_out` of the sources.

        Training holds out the same sources for an equal share (`validation_fraction`).
        """
        sources = [self._source(sample) for sample in range(len(self.store))]
        held = held_out_sources(sources, held_out)
        mask = np.repeat(np.fromiter((source in held for source in sources), bool, len(sources)), self._starts)
        train, other = np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()
        return Subset(self, train), Subset(self, other)

    def close(self) -> None:
        """Let go of the threads that read."""
        self.store.close()

    def __enter__(self) -> StoreDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": {}}

    def __repr__(self) -> str:
        shape = (2 if self.take == "pairs" else self.store.frames, *self.store.frame_shape)
        dtype = str(self.store.dtype).removeprefix("torch.")
        return (
            f"StoreDataset({str(self.store.root)!r}): {len(self):,} {self.take} of {self.store.kind} {shape} {dtype}; "
            f"columns: {_named(self.columns)}"
        )

    def _source(self, sample: int) -> str:
        unit = self.store.unit_of(sample)
        if unit not in self._sources:
            self._sources[unit] = self.store.sources_of(unit)
        return self._sources[unit][self._row(sample)]

    def _row(self, sample: int) -> int:
        return int(self.store.origins[2][sample])

    def _clip(self, sample: int) -> tuple[int, str, int]:
        return self.store.view_of(sample), self.store.unit_of(sample), self._row(sample)

    def _places(self, numbers: Sequence[int]) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Return the sample and the first frame of each item."""
        asked = np.asarray(numbers, np.int64).reshape(-1)
        wrong = (asked < -len(self)) | (asked >= len(self))
        if wrong.any():
            raise IndexError(f"item {int(asked[wrong][0])} of {len(self)} in {self.store.root}")
        samples, firsts = np.divmod(np.where(asked < 0, asked + len(self), asked), self._starts)
        return samples, firsts


def _chosen(store: ClipStore, names: Collection[str] | None) -> Columns:
    if names is None:
        return store.columns
    if absent := sorted(set(names) - {column.name for column in store.columns}):
        raise ValueError(f"{store.root} has no column {absent[0]!r}; it has {_named(store.columns)}")
    return tuple(column for column in store.columns if column.name in names)


def _named(columns: Columns) -> str:
    return ", ".join(str(column) for column in columns) or "none"


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory to read into.

    Of NumPy, which asks for huge pages: new memory in pages of 4 kB costs more than reading a warm file. It is never
    pinned, since that would open the GPU; `DataLoader(pin_memory=True)` does.
    """
    memory = torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, np.uint8))
    return memory.view(dtype).view(*shape)


class Items(Sequence[Item]):
    """The items of a batch, which are its rows."""

    def __init__(self, batch: Item) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["sample"])

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | Sequence[Item]:
        return self._rows[row]

    @cached_property
    def _rows(self) -> list[Item]:
        plain = {name: values for name, values in self.batch.items() if name != "columns"}
        plain |= {name: values.tolist() for name, values in plain.items() if name in ("view", "sample", "first")}
        return [
            {name: values[row] for name, values in plain.items()}
            | {"columns": {name: values[row] for name, values in self.batch["columns"].items()}}
            for row in range(len(self))
        ]
