"""What a tokenize will do: which token store, whose identity, which groups are left.

Tokens are the same thing whichever way they were made, so a store made from features and one made straight from shards
have the same identity: that of the features (made or not), and the tokenizer's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import Identity, Quarantined, default_location, part_of
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.compute import Computer
from deltactl.featurize.events import Job
from deltactl.featurize.finish import finish, published, read_group_file
from deltactl.featurize.index import StoreIndex
from deltactl.featurize.layout import GROUP_FILE, Layout, group_name
from deltactl.featurize.plan import Plan, make_plan
from deltactl.featurize.store import FeatureStore
from deltactl.featurize.views import parse_views
from deltactl.generations import extend
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.train.deltatok import DeltaTok

READERS = 16


@dataclass(frozen=True)
class TokenPlan:
    """What one `deltactl tokenize` makes."""

    data: FeatureStore | ShardSet
    root: Location
    identity: Identity
    layout: Layout
    units: tuple[str, ...]
    """All shards that a whole view has a group of."""
    jobs: tuple[Job, ...]
    """What is left to do, by view, then shard."""
    clips: int
    """Clips in those jobs, those that cannot be used included."""
    clips_there: int
    """Clips whose group is there already."""
    features: Plan | None
    """How the features of shards would be made; None for a store."""
    generations: tuple[Mapping[str, Any], ...] = ()
    """What was added to the shards since their first generation, as far as the data covers it."""
    awaited: tuple[str, ...] = ()
    """Shards that are still to come, where what is tokenized is unfinished."""

    def finish(self, failed: Sequence[Quarantined] = ()) -> StoreIndex | None:
        """Write index and quarantine, and which generation of the shards the tokens are of now."""
        extend(self.root, self.generations)
        return finish(self.root, expected=self.units, failed=failed, awaited=self.awaited)

    @property
    def bytes(self) -> int:
        """Bytes that the jobs will write."""
        return self.clips * self.layout.clip_bytes

    def is_made(self, job: Job) -> bool:
        """Whether another process has published the group of a job meanwhile; not known where it is made anew."""
        return not job.replace and (self.root / group_name(job.view, job.unit) / GROUP_FILE).exists()

    def lines(self) -> list[str]:
        """Return what the plan costs, for `--dry-run`."""
        from deltactl.progress import counted, format_bytes

        way = "straight from shards, backbone and tokenizer in one pass" if self.features else "from features"
        return [
            f"{self.data.root}: {way}",
            f"{self.root}: {counted(self.clips, 'crops')} to do, {self.clips_there:,} there already",
            f"writes {format_bytes(self.bytes)} ({format_bytes(self.layout.clip_bytes)} a crop: a clip under one view)",
        ]


def plan_from_store(config: TokenizeConfig, store: FeatureStore, tokenizer: DeltaTok, tokenizer_hash: str) -> TokenPlan:
    """Return the plan for a feature store; ConfigError where the tokenizer does not fit it."""
    check_width(store.dim, tokenizer, str(store.root))
    views = tuple(parse_views(config.views)) if config.views else store.views
    if absent := [view for view in views if view not in store.views]:
        raise ConfigError(f"--views asks for view {absent[0]}, but {store.root} has {_listed(store.views)}")
    identity = _identity(store.identity.values, tokenizer_hash)
    root = Location.of(config.out or default_location("tokens", store.root.name))
    groups = [(view, unit) for view in views for unit in store.units_of(view)]
    wanted = set(part_of(store.units, config.part))
    groups = [group for group in groups if group[1] in wanted]

    def shard_hash(view: int, unit: str) -> str:
        return read_group_file(store.root, view, unit).shard_sha256

    jobs = _left(root, groups, shard_hash)
    sizes = {unit: store.clips_in(unit) for unit in store.units}
    clips = sum(sizes[job.unit] for job in jobs)
    return TokenPlan(
        data=store,
        root=root,
        identity=identity,
        layout=Layout("tokens", store.frames, (store.dim,)),
        units=store.units,
        jobs=jobs,
        clips=clips,
        clips_there=sum(sizes[unit] for _, unit in groups) - clips,
        features=None,
        generations=store.generations,
        awaited=store.awaited,
    )


def plan_from_shards(
    config: TokenizeConfig, shards: ShardSet, computer: Computer, tokenizer: DeltaTok, tokenizer_hash: str
) -> TokenPlan:
    """Return the plan for shards; ConfigError where backbone, tokenizer and shards do not fit together."""
    backbone = computer.backbone
    check_width(backbone.dim, tokenizer, config.backbone)
    settings = featurize_config(config, shards)
    features = make_plan(settings, shards, backbone.content_hash, computer.grid, backbone.dim)
    root = Location.of(config.out or default_location("tokens", features.root.name))
    groups = [(view, unit) for view in features.views for unit in part_of(shards.units, config.part)]
    jobs = _left(root, groups, lambda _, unit: shards.sidecar(unit).tar_sha256)
    clips = sum(shards.clips_in(job.unit) for job in jobs)
    return TokenPlan(
        data=shards,
        root=root,
        identity=_identity(features.identity.values, tokenizer_hash),
        layout=Layout("tokens", features.layout.frames, (backbone.dim,)),
        units=tuple(shards.units),
        generations=features.generations,
        awaited=features.awaited,
        jobs=jobs,
        clips=clips,
        clips_there=sum(shards.clips_in(unit) for _, unit in groups) - clips,
        features=features,
    )


def featurize_config(config: TokenizeConfig, shards: ShardSet) -> FeaturizeConfig:
    """Return the settings of the features that tokens of shards are made from."""
    names = ("backbone", "size", "crops", "seed", "views", "batch_size", "device", "precision", "compile", "part")
    return FeaturizeConfig(
        shards=str(shards.root), decode_threads=config.decode_threads, **{name: getattr(config, name) for name in names}
    )


def check_width(dim: int, tokenizer: DeltaTok, source: str) -> None:
    """Refuse a tokenizer of another width than the features."""
    if tokenizer.config.width != dim:
        raise ConfigError(
            f"the features of {source} are {dim} wide, but the tokenizer was made for {tokenizer.config.width}; "
            "name the tokenizer that was trained on them"
        )


def _identity(features: Mapping[str, Any], tokenizer_hash: str) -> Identity:
    return Identity("tokens", {**features, "tokenizer": tokenizer_hash})


def _left(root: Location, groups: list[tuple[int, str]], shard_hash: Any) -> tuple[Job, ...]:
    """Return the jobs of the groups that are not there, or were made from a shard that has been made anew since."""
    there = {view: set(units) for view, units in published(root).items()}

    def job(group: tuple[int, str]) -> Job | None:
        view, unit = group
        if unit not in there.get(view, ()):
            return Job(view, unit)
        made_from = read_group_file(root, view, unit).shard_sha256
        return None if made_from == shard_hash(view, unit) else Job(view, unit, replace=True)

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(each for each in pool.map(job, groups) if each is not None)


def _listed(views: tuple[int, ...]) -> str:
    return f"views {', '.join(map(str, views))}" if len(views) > 1 else f"view {views[0]} only"
