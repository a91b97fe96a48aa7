"""The data of a run as Lightning wants it: training batches and held-out ones, from whatever the run was given.

| given | tokenizer | DeltaWorld | DINO-world |
|---|---|---|---|
| feature store | pairs | clips, tokenizer in the loop | clips |
| token store | – | clips from memory | – |
| shards | pairs, backbone in the loop | clips, both in the loop | clips, backbone in the loop |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from deltactl.artifacts import Identity
from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.pipeline.pipeline import decode_threads
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.views import PUBLISHED, Augmentation
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.train.data.batches import Batch, Batches, Source
from deltactl.train.data.inputs import lineage
from deltactl.train.data.live import LiveClips
from deltactl.train.data.order import BatchPlan, ClipOrder
from deltactl.train.data.selection import Selection, select
from deltactl.train.data.sources import StoreClips, StorePairs, TokenClips, TokenTable
from deltactl.train.data.validation import HeldOut, InOrder

Take = Literal["pairs", "clips"]
SAID = ("size", "frames", "stride", "crops", "crop_area", "aspect", "flip")
"""Values of the data's identity that a card says."""


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


class RunData(pl.LightningDataModule):
    """Training and held-out samples of a run; subclasses say where they come from."""

    unit = "clips"
    """What is counted, in the plural."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._plan: BatchPlan | None = None

    def __str__(self) -> str:
        return self._name

    @property
    def place(self) -> Location:
        """Where its samples are read from: a store, or shards."""
        return Location.of(self._name)

    @property
    def clips(self) -> int:
        """Clips (for heads: labelled crops) that train."""
        raise NotImplementedError

    @property
    def held_out(self) -> int:
        """Clips that are held out."""
        raise NotImplementedError

    def repeats(self, samples: int) -> float | None:
        """Return how often each sample comes when so many are drawn; None where each is drawn anew."""
        raise NotImplementedError

    def training_source(self) -> Source:
        """Return where the samples that train come from."""
        raise NotImplementedError

    def held_out_source(self) -> Source:
        """Return where the held-out samples come from."""
        raise NotImplementedError

    def summary(self, identity: Identity) -> dict[str, Any]:
        """Return what the run learns from, for its checkpoints and the cards of what is exported from them.

        `identity` is that of the data.
        """
        return {
            "from": {"shards": "shards, live"}.get(identity.kind, identity.kind),
            **lineage(self.place),
            **{name: identity.values[name] for name in SAID if name in identity.values},
            f"training_{self.unit}": self.clips,
            f"held_out_{self.unit}": self.held_out,
        }

    def use(self, plan: BatchPlan) -> None:
        """Say how steps are cut into batches."""
        self._plan = plan

    @property
    def plan(self) -> BatchPlan:
        """How steps are cut into batches."""
        assert self._plan is not None
        return self._plan

    # --- what Lightning calls ---

    def train_dataloader(self) -> Batches:
        """Return the endless batches of this process."""
        trainer = self.trainer
        assert trainer is not None
        return Batches(self.training_source(), self.plan, trainer.global_rank, lambda: int(trainer.global_step))

    def val_dataloader(self) -> HeldOut | list[object]:
        """Return the held-out batches of this process."""
        assert self.trainer is not None
        if not self.held_out:
            return []
        return HeldOut(self.held_out_source(), self.plan.batch, self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Move a batch."""
        return batch.to(device)


class TrainingData(RunData):
    """Samples of the tokenizer and the world models."""

    def __init__(self, data: ClipStore | ShardSet, settings: DataSettings, run: str) -> None:
        """`run` tells this run's shared memory from that of others."""
        super().__init__(str(data.root))
        self._data = data
        self._settings = settings
        self._run = run
        self._train, self._held_out = select(data, settings.held_out)
        self._access = RandomAccess(data) if isinstance(data, ShardSet) else None
        self._frames = data.identity.integer("frames") if isinstance(data, ShardSet) else data.frames
        """Frames of a clip; steps of a store."""
        self._table: TokenTable | None = None

    @property
    def clips(self) -> int:
        """Clips that train."""
        return self._train.clips

    @property
    def held_out(self) -> int:
        """Clips that are held out."""
        return self._held_out.clips

    def repeats(self, samples: int) -> float | None:
        """Return how often each sample comes when so many are drawn; None for live training, which draws new crops.

        Kinetics-700, one clip and one view: 273 times in the published first stage.
        """
        if isinstance(self._data, ShardSet):
            return None
        pairs = self._frames - 1 if self._settings.take == "pairs" else 1
        return samples / (self._train.clips * self._train.views * pairs)

    def training_source(self) -> Source:
        """Return where the samples that train come from."""
        settings = self._settings
        return self._source(self._train, ClipOrder(self._train.shard_sizes, settings.seed, settings.block_shards))

    def held_out_source(self) -> Source:
        """Return where the held-out samples come from."""
        return self._source(self._held_out, InOrder())

    # --- what Lightning calls ---

    def prepare_data(self) -> None:
        """Copy tokens to memory where they fit; in one process of each machine."""
        TokenTable.remove(self._run)  # left by a run that was killed
        if isinstance(self._data, TokenStore) and TokenTable.fits(self._data):
            TokenTable.fill(self._data, self._run)

    def setup(self, stage: str) -> None:  # noqa: ARG002 (the signature is Lightning's)
        """Open the copy, where there is one; in every process."""
        assert self.trainer is not None
        if isinstance(self._data, TokenStore) and TokenTable.is_filled(self._run):
            self._table = TokenTable(self._data, self._run, self.trainer.strategy.root_device)

    def train_dataloader(self) -> Batches:
        """Return the endless batches of this process."""
        assert self.trainer is not None
        if self.trainer.local_rank == 0:
            # All processes of this machine have it open by now.
            TokenTable.remove(self._run)
        return super().train_dataloader()

    # --- inside ---

    def _source(self, selection: Selection, order: ClipOrder | InOrder) -> Source:
        settings = self._settings
        match self._data:
            case ShardSet():
                assert self.trainer is not None
                assert self._access is not None
                return LiveClips(
                    self._access,
                    selection,
                    order,
                    take=settings.take,
                    frames=self._frames,
                    size=settings.size,
                    seed=settings.seed,
                    threads=decode_threads(self.trainer.strategy.root_device.type),
                    for_gpu=self.trainer.strategy.root_device.type == "cuda",
                    pairs_per_clip=settings.pairs_per_clip,
                    augmentation=settings.augmentation,
                    frames_per_step=settings.frames_per_step,
                )
            case FeatureStore() if settings.take == "pairs":
                return StorePairs(self._data, selection, order, settings.seed, settings.pairs_per_clip)
            case TokenStore() if self._table is not None:
                return TokenClips(self._table, self._data, selection, order)
            case _:
                return StoreClips(self._data, selection, order)
