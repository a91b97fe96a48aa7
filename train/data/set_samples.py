"""The samples of one set: which of its clips train, in which order, which are held out, and what reads them.

Takes an opened set and the run's settings; returns sources. A source of tokens reads a copy in memory where there is
one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch

from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.pipeline.pipeline import decode_threads
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.views import PUBLISHED, Augmentation
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.per_process import PerProcess
from deltactl.train.data.batches import Source
from deltactl.train.data.live import LiveClips
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.selection import Selection, select
from deltactl.train.data.sets import TrainingSet
from deltactl.train.data.sources import StoreClips, StorePairs, TokenClips, TokenTable
from deltactl.train.data.validation import InOrder

Take = Literal["pairs", "clips"]


@dataclass(frozen=True)
class DataSettings:
    """What the samples depend on."""

    take: Take
    """Pairs of consecutive frames, or whole clips."""
    seed: int
    held_out: float
    """Share of the sources that does not train."""
    block_shards: int | None
    """Shards in a block of the shuffle; None is a global one."""
    size: FrameSize
    """Frames of live training, in pixels."""
    pairs_per_clip: int = 1
    augmentation: Augmentation = PUBLISHED
    """What the crops of live training are drawn from."""
    frames_per_step: int = 1
    """Frames of live training that become one step of features."""
    left_out: frozenset[str] = frozenset()
    """Keys of clips that neither train nor are held out."""


class SetSamples:
    """Training and held-out samples of one set."""

    def __init__(self, training_set: TrainingSet, settings: DataSettings, order_seed: int, run: str) -> None:
        """`run` tells this run's shared memory from that of others.

        Raises:
            ConfigError: nothing is left to train on.
        """
        self.set = training_set
        self.data = training_set.data
        self.table_name = run if training_set.share == 1 else f"{run} {training_set.name}"
        """What the copy of the tokens in memory is called."""
        self._settings = settings
        self._order_seed = order_seed
        self.train, self.held_out = select(self.data, settings.held_out, settings.left_out)
        self._access = RandomAccess(self.data) if isinstance(self.data, ShardSet) else None
        self._table: TokenTable | None = None

    def repeats(self, samples: int) -> float | None:
        """Return how often each sample comes when so many are drawn; None for live training."""
        if isinstance(self.data, ShardSet):
            return None
        pairs = self.set.frames - 1 if self._settings.take == "pairs" else 1
        return samples / (self.train.clips * self.train.views * pairs)

    def open_table(self, device: torch.device) -> None:
        """Open the copy of the tokens in memory, where there is one."""
        if isinstance(self.data, TokenStore) and TokenTable.is_filled(self.table_name):
            self._table = TokenTable(self.data, self.table_name, device)

    def training_source(self, device: torch.device, pool: PerProcess[ThreadPoolExecutor] | None) -> Source:
        """Return what reads the clips that train; `pool` are the threads that decode, where there are any."""
        order = ClipOrder(self.train.shard_sizes, self._order_seed, self._settings.block_shards)
        return self._source(self.train, order, device, pool)

    def held_out_source(self, device: torch.device, pool: PerProcess[ThreadPoolExecutor] | None) -> Source:
        """Return what reads the clips that are held out."""
        return self._source(self.held_out, InOrder(), device, pool)

    def _source(
        self,
        selection: Selection,
        order: ClipOrder | InOrder,
        device: torch.device,
        pool: PerProcess[ThreadPoolExecutor] | None,
    ) -> Source:
        settings = self._settings
        match self.data:
            case ShardSet():
                assert self._access is not None
                return LiveClips(
                    self._access,
                    selection,
                    order,
                    take=settings.take,
                    frames=self.set.frames,
                    size=settings.size,
                    seed=settings.seed,
                    threads=decode_threads(device.type),
                    pool=pool,
                    for_gpu=device.type == "cuda",
                    pairs_per_clip=settings.pairs_per_clip,
                    augmentation=settings.augmentation,
                    frames_per_step=settings.frames_per_step,
                )
            case FeatureStore() if settings.take == "pairs":
                return StorePairs(self.data, selection, order, settings.seed, settings.pairs_per_clip)
            case TokenStore() if self._table is not None:
                return TokenClips(self._table, self.data, selection, order)
            case _:
                return StoreClips(self.data, selection, order)
