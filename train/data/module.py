"""The data of a run as Lightning wants it: training batches and held-out ones, from whatever the run was given.

| given | tokenizer | DeltaWorld | DINO-world |
|---|---|---|---|
| feature store | pairs | clips, tokenizer in the loop | clips |
| token store | – | clips from memory | – |
| shards | pairs, backbone in the loop | clips, both in the loop | clips, backbone in the loop |
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning.pytorch as pl
import torch

from deltactl.artifacts import Identity
from deltactl.featurize.pipeline.pipeline import decode_threads
from deltactl.featurize.store.reader import TokenStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.per_process import PerProcess
from deltactl.progress import counted, format_number
from deltactl.train.data.batches import Batch, Batches, Source
from deltactl.train.data.carried import alike
from deltactl.train.data.draws import seed_of
from deltactl.train.data.inputs import lineage
from deltactl.train.data.live import live_pool
from deltactl.train.data.mixed import MixedSource
from deltactl.train.data.mixing import InTurn, Mixing
from deltactl.train.data.order import BatchPlan
from deltactl.train.data.records import RunRecord
from deltactl.train.data.set_samples import DataSettings, SetSamples
from deltactl.train.data.sets import TrainingSet
from deltactl.train.data.sources import TokenTable
from deltactl.train.data.validation import HeldOut, HeldOutSet

SAID = ("size", "frames", "stride", "crops", "crop_area", "aspect", "flip")
"""Values of the data's identity that a card says."""


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
    def places(self) -> tuple[str, ...]:
        """Where each set lies that it is read from, as messages call it."""
        return (self._name,)

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

    def held_out_sets(self) -> list[HeldOutSet] | None:
        """Return what is held out of each set; None where there is one."""
        return None

    def lines(self, samples: int) -> list[str]:  # noqa: ARG002 (for the sake of subclasses)
        """Return what to say of each of several sets when so many samples are drawn."""
        return []

    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return what the run learns from, for its checkpoints and the cards of what is exported from them."""
        return {
            **facts_of(record.sets[0].record.identity, self.place),
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
        return HeldOut(
            self.held_out_source(),
            self.plan.batch,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.held_out_sets(),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Move a batch."""
        return batch.to(device)


def facts_of(identity: Identity, place: Location) -> dict[str, Any]:
    """Return what is said of one set: what it holds, where its clips come from, and what they show."""
    return {
        "from": {"shards": "shards, live"}.get(identity.kind, identity.kind),
        **lineage(place),
        **{name: identity.values[name] for name in SAID if name in identity.values},
    }


class TrainingData(RunData):
    """Samples of the tokenizer and the world models, from one set or several.

    One set trains in its own order. Of several each has an order of its own, a held-out share of its own sources, and
    its turns in the stream by its share (`mixing`).
    """

    def __init__(self, sets: Sequence[TrainingSet], settings: DataSettings, run: str) -> None:
        """`run` tells this run's shared memory from that of others."""
        super().__init__(" and ".join(str(each.data.root) for each in sets))
        self._samples = [SetSamples(each, settings, _order_seed(settings.seed, each, sets), run) for each in sets]
        self._mixing = Mixing([each.share for each in sets])

    @property
    def place(self) -> Location:
        """Where the samples of the first set are read from."""
        return self._samples[0].data.root

    @property
    def places(self) -> tuple[str, ...]:
        """Where each set lies."""
        return tuple(str(each.data.root) for each in self._samples)

    @property
    def clips(self) -> int:
        """Clips that train, of all sets."""
        return sum(each.train.clips for each in self._samples)

    @property
    def held_out(self) -> int:
        """Clips that are held out, of all sets."""
        return sum(each.held_out.clips for each in self._samples)

    def repeats(self, samples: int) -> float | None:
        """Return how often each sample comes when so many are drawn, of several sets those of the one that comes most.

        None for live training, which draws new crops. Kinetics-700, one clip and one view: 273 times in the published
        first stage.
        """
        found = [each.repeats(count) for each, count in zip(self._samples, self._mixing.counts(samples), strict=True)]
        return max((value for value in found if value is not None), default=None)

    def lines(self, samples: int) -> list[str]:
        """Return share and size of each of several sets, and how often its clips come."""
        if len(self._samples) == 1:
            return []
        counts = self._mixing.counts(samples)
        return [
            f"{each.set.name}: share {float(each.set.share):.4g}, {counted(each.train.clips, 'clips')} train, "
            f"{each.held_out.clips:,} held out; each clip comes {format_number(count / each.train.clips)} times"
            for each, count in zip(self._samples, counts, strict=True)
        ]

    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return what the run learns from; of several sets what they have in common, then each with its share."""
        if len(self._samples) == 1:
            return super().summary(record)
        facts = [
            facts_of(each.record.identity, mine.data.root)
            for each, mine in zip(record.sets, self._samples, strict=True)
        ]
        common = {
            name: value for name, value in facts[0].items() if all(other.get(name) == value for other in facts[1:])
        }
        sets = {
            each.set.name: {
                "share": float(each.set.share),
                **{name: value for name, value in of_set.items() if name not in common},
                "training_clips": each.train.clips,
                "held_out_clips": each.held_out.clips,
            }
            for each, of_set in zip(self._samples, facts, strict=True)
        }
        return {**common, "sets": sets, "training_clips": self.clips, "held_out_clips": self.held_out}

    def training_source(self) -> Source:
        """Return where the samples that train come from."""
        pool = self._pool()
        sources = [each.training_source(self._device, pool) for each in self._samples]
        return sources[0] if len(sources) == 1 else self._mixed(sources, self._mixing)

    def held_out_source(self) -> Source:
        """Return where the held-out samples come from."""
        pool = self._pool()
        sources = [each.held_out_source(self._device, pool) for each in self._samples]
        if len(sources) == 1:
            return sources[0]
        return self._mixed(sources, InTurn([source.clips for source in sources]))

    def held_out_sets(self) -> list[HeldOutSet] | None:
        """Return what is held out of each set."""
        if len(self._samples) == 1:
            return None
        return [HeldOutSet(each.set.name, each.held_out.clips, float(each.set.share)) for each in self._samples]

    # --- what Lightning calls ---

    def prepare_data(self) -> None:
        """Copy tokens to memory where those of all sets fit; in one process of each machine."""
        for each in self._samples:
            TokenTable.remove(each.table_name)  # left by a run that was killed
        stores = [each.data for each in self._samples if isinstance(each.data, TokenStore)]
        if stores and TokenTable.fits(*stores):
            for each, store in zip(self._samples, stores, strict=True):
                TokenTable.fill(store, each.table_name)

    def setup(self, stage: str) -> None:  # noqa: ARG002 (the signature is Lightning's)
        """Open the copy, where there is one; in every process."""
        for each in self._samples:
            each.open_table(self._device)

    def train_dataloader(self) -> Batches:
        """Return the endless batches of this process."""
        assert self.trainer is not None
        if self.trainer.local_rank == 0:
            # All processes of this machine have it open by now.
            for each in self._samples:
                TokenTable.remove(each.table_name)
        return super().train_dataloader()

    # --- inside ---

    def _mixed(self, sources: Sequence[Source], mixing: Mixing | InTurn) -> MixedSource:
        types = {None if isinstance(each.data, ShardSet) else each.data.dtype for each in self._samples}
        names = [each.set.name for each in self._samples]
        columns = alike([each.data.columns for each in self._samples])
        return MixedSource(sources, names, mixing, same_type=len(types) == 1, columns=columns)

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        device: torch.device = self.trainer.strategy.root_device
        return device

    def _pool(self) -> PerProcess[ThreadPoolExecutor] | None:
        """Return the threads that decode, for all sets together; None where nothing is decoded."""
        if not any(isinstance(each.data, ShardSet) for each in self._samples):
            return None
        return live_pool(decode_threads(self._device.type), for_gpu=self._device.type == "cuda")


def _order_seed(seed: int, each: TrainingSet, sets: Sequence[TrainingSet]) -> int:
    """Return the seed of a set's order: another one for each of several, which would all be shuffled alike."""
    return seed if len(sets) == 1 else seed_of(seed, "set", list(sets).index(each))
