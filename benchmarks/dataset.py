"""Reading a store as a data set of PyTorch, beside `FeatureStore.read_clips` and `TokenStore.read_clips`.

Run: python benchmarks/dataset.py [--clips 128] [--patches 256] [--tokens 16384] [--workers 4] [--rounds 5] [--dir DIR]

Stores of random numbers are made with the program's own writer: features of 128 clips of 8 frames at 256 px (400 MB),
and tokens. All clips are read in shuffled order, in batches of 16 (of tokens 256): by `read_clips` into one buffer that
is used again; by `StoreDataset.batch`, which also brings times, keys and sources, into new memory; and by `DataLoader`,
in this process and in workers that live on from round to round, with `collate_fn=StoreDataset.collate`. *Items* are
collated by default, *one by one* is the same data set without `__getitems__`, and *zeros* are batches of the same size
that nobody reads: what it costs to hand them over from workers. All alternate, the best of the rounds counts, and the
ratio is to `read_clips` of the same run. Pages are warm.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from store import best, make_store, write_group
from torch.utils.data import DataLoader, Dataset

from deltactl.artifacts import Identity, open_artifact
from deltactl.featurize.store.dataset import StoreDataset
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.writer import write_root
from deltactl.locations import Location

FRAMES, DIM = 8, 768


class OneByOne(Dataset[Any]):
    """The same items without `__getitems__`: what a `DataLoader` does where a data set has none."""

    def __init__(self, data: StoreDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        return self.data[number]


class Zeros(Dataset[Any]):
    """Batches of zeros."""

    def __init__(self, data: StoreDataset) -> None:
        self.data = data

    def __getitems__(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return as many clips of zeros."""
        return torch.zeros((len(numbers), FRAMES, *self.data.store.frame_shape), dtype=self.data.store.dtype)


def make_tokens(root: Location, clips: int) -> None:
    """Write a packed store of random tokens in groups of 256 clips."""
    open_artifact(root, Identity("tokens", {"made": "by the benchmark"}), {})
    write_root(root, None)
    units = [f"{number:06d}" for number in range(-(-clips // 256))]
    tokens = np.random.default_rng(0).standard_normal((256, FRAMES, 1, DIM), np.float32).astype(np.float16)
    for unit in units:
        write_group(root, unit, Layout("tokens", FRAMES, (1, DIM)), tokens)
    finish(root, expected=units)
    pack_store(root, StoreIndex.read(root))


def as_it_is(batch: Any) -> Any:
    """Return a batch that is whole already."""
    return batch


def compare(root: Location, size: int, workers: int, rounds: int) -> None:
    """Print the rates of all ways to read the clips of a store in batches of `size`."""
    data = StoreDataset(root)
    order: list[int] = np.random.default_rng(1).permutation(len(data)).tolist()
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    buffer = data.store.clip_buffer(size)

    def by_store() -> None:
        for batch in batches:
            data.store.read_clips(batch, buffer[: len(batch)])

    def by_batch() -> None:
        for batch in batches:
            data.batch(batch)

    def by_loader(dataset: Dataset[Any], workers: int, collate: Any = None) -> Callable[[], None]:
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            dataset,
            batch_size=size,
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
        )

        def run() -> None:
            for _ in loader:
                pass

        return run

    work: dict[str, Callable[[], None]] = {
        "read_clips": by_store,
        "StoreDataset.batch": by_batch,
        "DataLoader, no workers": by_loader(data, 0, data.collate),
        f"DataLoader, {workers} workers": by_loader(data, workers, data.collate),
        f"  zeros, {workers} workers": by_loader(Zeros(data), workers, as_it_is),
        "  items, no workers": by_loader(data, 0),
        f"  items, {workers} workers": by_loader(data, workers),
        "  one by one, no workers": by_loader(OneByOne(data), 0),
        f"  one by one, {workers} workers": by_loader(OneByOne(data), workers),
    }
    for run in work.values():
        run()
    seconds = best(work, rounds, lambda: None)
    total = len(data) * data.store.layout.clip_bytes
    for name, least in seconds.items():
        rate, ratio = total / least / 1e9, seconds["read_clips"] / least
        print(
            f"{data.store.kind:8} {name:28} {rate:6.2f} GB/s  {len(data) / least:9,.0f} clips/s   "
            f"{ratio:5.2f} of read_clips",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--patches", type=int, default=256, help="1024 at 512 px, 256 at 256 px")
    parser.add_argument("--tokens", type=int, default=16384, help="clips of the token store")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where to put the stores; a folder of its own is made there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        features, tokens = Location.of(Path(name) / "features"), Location.of(Path(name) / "tokens")
        make_store(features, options.clips, options.patches)
        compare(features, 16, options.workers, options.rounds)
        make_tokens(tokens, options.tokens)
        compare(tokens, 256, options.workers, options.rounds)


if __name__ == "__main__":
    main()
