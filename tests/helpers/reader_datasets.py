"""Every reader that is handed out as one data set, for the worker processes of a DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.train.data.live import LiveClips
from deltactl.train.data.selection import select
from deltactl.train.data.sources import StorePairs
from deltactl.train.data.validation import InOrder

READERS = ("features", "tokens", "shards", "tars", "live", "pairs")


def open_readers(shards: str, features: str, tokens: str) -> dict[str, Any]:
    """Open each reader, by its name."""
    stores, of_shards = FeatureStore.open(features), ShardSet.open(shards)
    train, _ = select(of_shards, 0.0)
    order = InOrder()
    live = LiveClips(
        RandomAccess(of_shards), train, order, take="clips", frames=4, size=FrameSize.of(32), seed=0, threads=2
    )
    samples = train.samples
    return {
        "features": stores,
        "tokens": TokenStore.open(tokens),
        "shards": of_shards,
        "tars": RandomAccess(of_shards),
        "live": live,
        "pairs": StorePairs(stores, type(train)(samples, train.shard_sizes), order, 0),
    }


def look(name: str, reader: Any) -> float:
    """Return a number that depends on what one reader reads."""
    places = np.arange(3)
    looks: dict[str, Callable[[], float]] = {
        "features": lambda: float(reader.read_clips([3, 1]).float().sum() + reader.black.sum() + reader[2].sum()),
        "tokens": lambda: float(reader.read_clips([2, 0]).float().sum() + reader.times([1]).sum()),
        "shards": lambda: float(sum(len(frame) for clip in reader.read(reader.units[1]) for frame in clip.frames)),
        "tars": lambda: float(sum(len(data) for _, data in reader.read("000000", reader_key(reader), [2, 0])[1])),
        "live": lambda: float(reader.start(places)().data.sum()),
        "pairs": lambda: float(reader.start(places)().data.float().sum()),
    }
    return looks[name]()


def reader_key(clips: RandomAccess) -> str:
    """Return the key of the first clip of a set of shards."""
    return clips.keys("000000")[0]


class AllReaders(Dataset[Any]):
    """Item n is what reader n reads."""

    def __init__(self, readers: dict[str, Any]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return len(READERS)

    def __getitem__(self, number: int) -> torch.Tensor:
        torch.set_num_threads(1)
        name = READERS[number]
        return torch.tensor([number, look(name, self.readers[name])], dtype=torch.float64)
