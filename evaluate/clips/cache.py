"""The cache of an evaluation: shards and features of its data set.

What is missing is made by `ingest` and `featurize`, run as their own commands would: they go on where they were stopped
and refuse what was made from other inputs. What it takes of the disk is said first, and the room checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from deltactl.artifacts import INDEX, Quarantined, default_location, read_quarantine, written
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import IdentityError, StorageError
from deltactl.featurize.plan import default_name
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import FIXED_VIEWS, evaluated
from deltactl.ingest.plan import output_of
from deltactl.ingest.plan import plan as plan_ingest
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.sidecars import finished_units
from deltactl.ingest.units import Plan
from deltactl.locations import Location
from deltactl.progress import Say, Summary, format_bytes


@dataclass(frozen=True)
class Cache:
    """Where shards and features of an evaluation lie, and what makes them."""

    ingest: IngestConfig
    featurize: FeaturizeConfig
    plan: Plan
    layout: Layout
    shards: Location
    features: Location

    @classmethod
    def plan_of(cls, config: EvaluateConfig, *, patches: int, dim: int, frames_per_step: int = 1) -> Cache:
        """Return the cache of a resolved configuration.

        `patches` and `dim` are those of the backbone's features at this size; it makes one step of them from
        `frames_per_step` frames.

        Raises:
            ConfigError: the data set is not there.
        """
        ingest = IngestConfig(
            dataset=config.dataset,
            source=config.root,
            split_file=config.split_file,
            size=config.size,
            frames=config.frames,
            frames_per_step=frames_per_step,
            max_bad=config.max_bad,
            retry_failed=config.retry_failed,
        )
        settled = resolved(ingest)
        shards = output_of(settled)
        name = default_name(shards.name, config.backbone, config.size)
        other = f"-{config.dtype}" if written(dtype=config.dtype) else ""
        features = default_location("features", f"{name}{other}")
        settings = FeaturizeConfig(
            out=str(features),
            shards=str(shards),
            backbone=config.backbone,
            size=config.size,
            crops=evaluated(config.size),
            dtype=config.dtype,
            device=config.device,
            precision=config.precision,
            max_bad=config.max_bad,
        )
        layout = Layout("features", config.frames, (patches, dim), config.dtype)
        return cls(ingest, settings, plan_ingest(settled), layout, shards, features)

    @property
    def views(self) -> int:
        """How many views of a clip there may be: two square crops, or the whole frame."""
        return FIXED_VIEWS[evaluated(self.featurize.size)]

    @property
    def complete(self) -> bool:
        """Whether both stages have ended (with what they were asked for: that is checked by `fill`)."""
        return (self.shards / INDEX).exists() and (self.features / INDEX).exists()

    def missing_bytes(self) -> tuple[int, int]:
        """Return about how much shards and features have yet to take; a square frame, one crop, takes half of it."""
        assert self.plan.clip_bytes is not None, "the frames of evaluation clips have one size"
        there = set(finished_units(self.shards))
        clips = sum(unit.clips for unit in self.plan.units if unit.name not in there)
        groups = {(view, unit) for view, units in published(self.features).items() for unit in units}
        crops = sum(
            unit.clips for unit in self.plan.units for view in range(self.views) if (view, unit.name) not in groups
        )
        return clips * self.plan.clip_bytes, crops * self.layout.clip_bytes

    def check_room(self, say: Say) -> None:
        """Say what disk the missing parts take.

        Raises:
            StorageError: there is not enough.
        """
        shards, features = self.missing_bytes()
        need, free = shards + features, self.shards.free_bytes()
        if not need:
            return
        room = "" if free is None else f"; {format_bytes(free)} are free"
        sizes = f"{format_bytes(need)} (shards {format_bytes(shards)}, features {format_bytes(features)})"
        say(f"the cache takes up to {sizes} in {self.shards.parent.parent}{room}")
        if free is not None and need > free:
            raise StorageError(
                f"the cache of {self.ingest.dataset} at {self.ingest.size} px takes up to {sizes}, but only "
                f"{format_bytes(free)} are free in {self.shards.parent.parent}; make room, point DELTACTL_HOME at "
                "another disk, or add --no-cache"
            )

    def fill(self, say: Say) -> tuple[ShardSet, FeatureStore]:
        """Run the stages, which keep what is there, and open what they made.

        Raises:
            IdentityError: something there was made from other inputs.
            TooManyBadError: too much is unreadable.
        """
        try:
            _tell(say, "ingest", run_ingest(self.ingest))
            _tell(say, "featurize", featurize(self.featurize))
        except IdentityError as error:
            # The stages advise another --out, but here that is the report's.
            what = str(error).partition("; choose another --out")[0]
            raise IdentityError(f"{what}; remove it, add --no-cache, or set DELTACTL_HOME to another folder") from error
        return self.open()

    def quarantined(self) -> list[Quarantined]:
        """Return what either stage could not use."""
        return [*read_quarantine(self.shards), *read_quarantine(self.features)]

    def open(self) -> tuple[ShardSet, FeatureStore]:
        """Open shards and features as they are."""
        return ShardSet.open(self.shards), FeatureStore.open(self.features, views=range(self.views))


def _tell(say: Say, stage: str, summary: Summary) -> None:
    if summary.done or summary.quarantined:
        for line in summary.lines():
            say(f"{stage}: {line}")
