"""What featurize and tokenize take clips from: shards, or the videos that ingest would make shards of.

Both are an `Origin`: units of clips with keys, what the units' groups are a function of, and what reads the clips. From
videos the units, their sources, the keys and the times are those of an ingest with the same settings; nothing is
stored of the frames, so that they are neither shrunk nor compressed. A store that is made so carries the record of its
sources itself (`sources-001.json`, as a set of shards does), and takes in videos that are added in units of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from deltactl.artifacts import HEADER, UNWRITTEN, Header, Identity, canonical_json, workspace
from deltactl.configs.clips import ClipsConfig
from deltactl.configs.featurize import FeaturesConfig
from deltactl.configs.follow import is_chosen, refuse_unused
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import data_set
from deltactl.datasets.record import VideoSet
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError
from deltactl.featurize.pipeline.events import Footage, Job
from deltactl.featurize.pipeline.read import ClipReader, ShardReader
from deltactl.featurize.pipeline.read_videos import VideoReader
from deltactl.featurize.store.finish import published, read_group_file
from deltactl.fields import Fields
from deltactl.generations import hashes_of
from deltactl.ingest.growth import keep_record
from deltactl.ingest.record import VIDEOS, planned_units, unfinished_note, units_of_videos
from deltactl.ingest.record import recorded as record_of
from deltactl.ingest.settle import default_name, resolved
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.training import plan_training
from deltactl.ingest.units import Plan, UnitPlan
from deltactl.ingest.video.videos import VideoClipMaker
from deltactl.locations import Location


@runtime_checkable
class Origin(Protocol):
    """Units of clips, and what reads them."""

    @property
    def root(self) -> Location:
        """Where they are, or what they are cut from."""

    @property
    def identity(self) -> Identity:
        """Says `dataset`, `frames` of a clip, and perhaps `size`."""

    @property
    def units(self) -> Sequence[str]:
        """Names of the units that are there, in order."""

    def planned(self, additions: int) -> Sequence[str]:
        """Return the names of all units that there are to be, with the first so many additions."""

    @property
    def count(self) -> int:
        """Number of clips."""

    def clips_in(self, unit: str) -> int:
        """Return the number of clips of a unit."""

    def unit_hash(self, unit: str) -> str:
        """Return the hash of what a group of this unit would be made from now."""

    def job(self, view: int, unit: str, *, replace: bool = False) -> Job:
        """Return the job of a group."""

    def some(self, view: int, unit: str, keys: Collection[str]) -> Job:
        """Return the job of the clips of a group that have these keys, and no more of others than it takes."""

    def in_order(self, groups: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return groups (view and unit) in the order that costs least."""

    @property
    def identity_values(self) -> Mapping[str, Any]:
        """What the identity of a store says of its origin."""

    @property
    def generations(self) -> tuple[Mapping[str, Any], ...]:
        """What was added since the first generation, as a store's `artifact.json` says it."""

    @property
    def awaited(self) -> tuple[str, ...]:
        """Units that are still to come."""

    @property
    def unfinished(self) -> str | None:
        """What to say where units are still to come."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it is, as the provenance of a store says it."""

    @property
    def title(self) -> str:
        """What it holds, in a word or two."""

    def begin(self, store: Location) -> None:
        """Write into a store, which was opened, what must stand there before its first group."""

    def reader(self, views: int) -> ClipReader:
        """Return what reads the clips of jobs, of so many views of a unit in a row."""


@dataclass(frozen=True)
class ShardOrigin:
    """A set of shards."""

    shards: ShardSet

    @property
    def title(self) -> str:
        """What it holds."""
        return "shards"

    @property
    def root(self) -> Location:
        """Where they are."""
        return self.shards.root

    @property
    def identity(self) -> Identity:
        """That of the set."""
        return self.shards.identity

    @cached_property
    def units(self) -> Sequence[str]:
        """Names of the finished shards."""
        return tuple(self.shards.units)

    def planned(self, additions: int) -> Sequence[str]:
        """Return the names of all shards once the ingest has ended."""
        return planned_units(self.shards, additions)

    @property
    def count(self) -> int:
        """Number of clips."""
        return self.shards.count

    def clips_in(self, unit: str) -> int:
        """Return the number of clips of a shard."""
        return self.shards.clips_in(unit)

    def unit_hash(self, unit: str) -> str:
        """Return the hash of a tar."""
        return self.shards.sidecar(unit).tar_sha256

    def job(self, view: int, unit: str, *, replace: bool = False) -> Job:
        """Return the job of a group."""
        return Job(view, unit, replace)

    def some(self, view: int, unit: str, keys: Collection[str]) -> Job:  # noqa: ARG002 (a tar is read as a whole)
        """Return the job of the whole group."""
        return self.job(view, unit)

    def in_order(self, groups: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return them as they are: one view is whole before the next begins."""
        return list(groups)

    @property
    def identity_values(self) -> Mapping[str, Any]:
        """The hash of the first generation."""
        return {"shards": self.identity.hash()}

    @property
    def generations(self) -> tuple[Mapping[str, Any], ...]:
        """The hash of each generation after the first."""
        return tuple({"shards": each} for each in hashes_of(self.identity, self.shards.generations)[1:])

    @property
    def awaited(self) -> tuple[str, ...]:
        """Shards that are still to come in a set whose ingest has not ended."""
        there = set(self.units)
        return () if self.shards.complete else tuple(unit for unit in planned_units(self.shards) if unit not in there)

    @property
    def unfinished(self) -> str | None:
        """That the ingest has not ended."""
        return unfinished_note(self.shards)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the shards are."""
        return {"shards": str(self.root)}

    def begin(self, store: Location) -> None:
        """Write nothing: the shards keep the record of their sources."""

    def reader(self, views: int) -> ClipReader:  # noqa: ARG002 (a tar is soon read again)
        """Return what reads tars."""
        return ShardReader(self.shards)


@dataclass(frozen=True)
class VideoOrigin:
    """Videos, by the plan of an ingest that stores nothing."""

    plan: Plan

    @property
    def title(self) -> str:
        """What it holds."""
        return "units straight from videos"

    @classmethod
    def of(cls, config: IngestConfig, store: Location, *, recorded: bool = False) -> VideoOrigin:
        """List videos and plan their units; `config` is resolved, `store` is what is, or will be, made of them.

        `recorded` leaves out what the store was not made of.

        Raises:
            ConfigError: the videos cannot be listed.
            IdentityError: videos that the store was made of are gone or have changed.
        """
        there = record_of(store) if recorded else None
        only = None if there is None else {name for each in there for name in each.names}
        return cls(plan_training(config, 1, MadeStore(store), stored=False, only=only))

    @property
    def root(self) -> Location:
        """The folder (or zip) that the names of the videos are relative to."""
        return Location.of(self.plan.root)

    @property
    def identity(self) -> Identity:
        """What the clips are."""
        return Identity(VIDEOS, self.plan.identity, self.plan.root)

    @cached_property
    def _units(self) -> Mapping[str, UnitPlan]:
        return {unit.name: unit for unit in self.plan.units}

    @cached_property
    def _bytes(self) -> Mapping[str, int | None]:
        """Sizes of the files of all sources."""
        return {
            name: size for entry in self.plan.record for name, size in zip(entry["names"], entry["bytes"], strict=True)
        }

    @cached_property
    def units(self) -> Sequence[str]:
        """Names of the units."""
        return tuple(self._units)

    def planned(self, additions: int) -> Sequence[str]:
        """Return the names of all units."""
        return units_of_videos(Fields(dict(self.plan.identity), self.plan.root), self.generations[:additions])

    @property
    def count(self) -> int:
        """Number of clips, if every video can be read."""
        return self.plan.clips

    def clips_in(self, unit: str) -> int:
        """Return the number of planned clips of a unit."""
        return self._units[unit].clips

    def unit_hash(self, unit: str) -> str:
        """Return the hash of the names and sizes of a unit's videos."""
        sources = [[source.name, self._bytes[source.name]] for source in self._units[unit].items]
        return hashlib.sha256(canonical_json({"unit": unit, "sources": sources})).hexdigest()

    def job(self, view: int, unit: str, *, replace: bool = False) -> Job:
        """Return the job of a group, which names its sources."""
        return Job(view, unit, replace, Footage(self._units[unit], self.unit_hash(unit)))

    def some(self, view: int, unit: str, keys: Collection[str]) -> Job:
        """Return the job of those videos that the clips are cut from."""
        whole = self._units[unit]
        names = {clip.source for clip in self._maker.planned(whole) if clip.key in keys}
        items = tuple(item for item in whole.items if item.name in names)
        return Job(view, unit, footage=Footage(replace(whole, items=items), self.unit_hash(unit)))

    def in_order(self, groups: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return the views of a unit one after the other, so that its videos are decoded once for all of them."""
        return sorted(groups, key=lambda group: group[1])

    @property
    def identity_values(self) -> Mapping[str, Any]:
        """Everything that the clips are a function of."""
        return {VIDEOS: dict(self.plan.identity)}

    @property
    def generations(self) -> tuple[Mapping[str, Any], ...]:
        """The videos that were added, as shards of them would say it."""
        return self.plan.generations

    @property
    def awaited(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def unfinished(self) -> str | None:
        """Nothing: videos that come later are another generation."""
        return None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the videos are."""
        return {VIDEOS: str(self.root)}

    def begin(self, store: Location) -> None:
        """Write down which videos the store is made of."""
        keep_record(store, self.plan)

    def reader(self, views: int) -> ClipReader:
        """Return what decodes videos."""
        return VideoReader(self._maker, views)

    @property
    def _maker(self) -> VideoClipMaker:
        assert isinstance(self.plan.maker, VideoClipMaker)
        return self.plan.maker


@dataclass(frozen=True)
class MadeStore:
    """A store that is made straight from videos, for `growth`."""

    root: Location

    def said(self, identity: Identity) -> Mapping[str, Any]:
        """Return what the store's identity says of its videos."""
        found = identity.values.get(VIDEOS)
        return found if isinstance(found, Mapping) else {}

    def bad(self, units: Iterable[str]) -> dict[str, set[str]]:
        """Return the names of the sources of these units that have a clip in quarantine."""
        wanted, found = set(units), dict[str, set[str]]()
        for view, names in published(self.root).items():
            for unit in wanted.intersection(names):
                try:
                    group = read_group_file(self.root, view, unit)
                except DamagedError:
                    continue  # to be made again, by what verify says
                keys = {entry.source for entry in group.quarantined}
                pairs = zip(group.keys, group.sources or (), strict=True)
                found.setdefault(unit, set()).update(source for key, source in pairs if key in keys)
        return found


# --- finding it ------------------------------------------------------------------------------------------------------

Found = ShardSet | IngestConfig
"""Shards, or the resolved settings of an ingest of videos."""


def find_origin(places: Sequence[str], config: FeaturesConfig) -> Found:
    """Return the shards that are named, the only ones in the workspace, or the videos that are named.

    What is no artifact, and lies on a disk, is videos; so is a data set that is named alone, by `--dataset`.

    Raises:
        ConfigError: there are no shards, or several, which it lists; or a setting does not go with what is named.
        ArtifactError: what is named is another artifact, or nothing.
    """
    if are_videos(places, config.videos):
        return videos_of(places, config)
    shards = _shards(places[0] if places else None)
    refuse_clip_settings(config.videos, f"{shards.root} holds shards")
    return shards


def are_videos(places: Sequence[str], videos: ClipsConfig) -> bool:
    """Return whether what is named is videos rather than an artifact.

    Raises:
        ConfigError: it is both.
    """
    if not places:
        return is_chosen(videos, "dataset")
    artifacts = [place for place in places if (Location.of(place) / HEADER).exists()]
    if artifacts and len(places) > 1:
        raise ConfigError(f"{len(places)} places are named, and {artifacts[0]} is an artifact; name that one alone")
    root = Location.of(places[0])
    return not artifacts and (len(places) > 1 or (root.is_local and root.path.exists()))


def refuse_clip_settings(videos: ClipsConfig, what: str) -> None:
    """Raise ConfigError for settings of clips beside something that has its clips already, which `what` says."""
    needs = f"decides which clips are cut from videos, and {what}"
    names = [name for name in ClipsConfig.model_fields if is_chosen(videos, name)]
    refuse_unused(videos, *((f"--{name.replace('_', '-')}", False, needs) for name in names))


def name_of(found: Found) -> str:
    """Return the name that a store of it begins with, in the workspace."""
    return found.root.name if isinstance(found, ShardSet) else f"{default_name(found)}-{VIDEOS}"


def origin_of(found: Found, store: Location) -> Origin:
    """Return what was found as an origin of the store at a place; raises as `VideoOrigin.of`."""
    return ShardOrigin(found) if isinstance(found, ShardSet) else VideoOrigin.of(found, store)


def origin_of_store(root: Location, header: Header, place: str | None) -> Origin:
    """Return what the store at `root` was made of: as it says itself, or at another `place`.

    Raises:
        ArtifactError: the store no longer says it, or there is nothing of the kind.
        ConfigError: the videos cannot be listed.
        IdentityError: it is something else, or some of it is gone or has changed.
    """
    identity, facts = header.identity, header.provenance
    straight = VIDEOS in identity.values
    place = place or facts.get(VIDEOS if straight else "shards") or facts.get("data")
    if place is None:
        raise ArtifactError(f"{root} no longer says what it was made from; name its {VIDEOS if straight else 'shards'}")
    if straight:
        said = Fields(dict(identity.values), identity.file, "identity").nested(VIDEOS).values
        values = {name: said[name] for name in ("dataset", "split", "frames", "clips", "shard_clips", "seed")}
        stride, columns = said.get("stride", UNWRITTEN["stride"]), ",".join(said.get("columns", ())) or None
        config = resolved(IngestConfig(source=str(place), stride=stride, columns=columns, **values))
        origin: Origin = VideoOrigin.of(config, root, recorded=True)
    else:
        origin = ShardOrigin(ShardSet.open(str(place)))
    wanted = Identity(identity.kind, {**identity.values, **origin.identity_values})
    if differences := wanted.differences(identity):
        raise IdentityError(
            f"{root} was not made from {origin.root}: {'; '.join(differences)}; name what it was made from"
        )
    return origin


def videos_of(places: Sequence[str], config: FeaturesConfig) -> IngestConfig:
    """Return the resolved settings of an ingest of videos that are named.

    Raises:
        ConfigError: a setting does not go with them, or they are an evaluation set.
    """
    chosen = {name: getattr(config.videos, name) for name in config.videos.model_fields_set}
    if places:  # else the environment names the root
        chosen["source"] = places[0] if len(places) == 1 else tuple(places)
    found = resolved(IngestConfig(seed=config.seed, **chosen))
    assert found.dataset is not None
    if not isinstance(data_set(found.dataset), VideoSet):
        raise ConfigError(
            f"{found.dataset} is an evaluation set, whose labels stand in its shards; make those first: "
            f"deltactl ingest --dataset {found.dataset}"
        )
    return found


def _shards(given: str | None) -> ShardSet:
    if given is not None:
        if not (root := Location.of(given)).exists():
            raise ArtifactError(f"{root} does not exist; expected shards, or videos")
        return ShardSet.open(root)
    folder = workspace() / "shards"
    names = folder.list()
    if not names:
        raise ConfigError(f"there are no shards in {folder}; run deltactl ingest first, or name a folder of shards")
    if len(names) > 1:
        raise ConfigError(f"{folder} holds several sets of shards; name one of: {', '.join(names)}")
    return ShardSet.open(folder / names[0])
