"""What a featurize will do: which store, whose identity, which jobs are left; a function of shards and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deltactl.artifacts import Identity, Quarantined, default_location, part_of, workspace
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.follow import refuse_unused
from deltactl.datasets.known import data_set
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.featurize.events import Job
from deltactl.featurize.finish import finish, published, read_group_file
from deltactl.featurize.index import StoreIndex
from deltactl.featurize.layout import FORMAT, Layout
from deltactl.featurize.views import SQUARE_VIEWS, Crops, parse_views
from deltactl.generations import extend, hashes_of
from deltactl.ingest.record import planned_units
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location

READERS = 16
PAIRS_PER_SECOND_8_H200 = {256: 3470, 512: 800}
"""Frame pairs a second that 8 H200 trained the published tokenizer with (from its cost: 82 h for 10⁶ steps of 1024 at
256 px; at 512 px 89 h for half as many on 16)."""
PUBLISHED_PAIRS = 1_024_000_000
"""Pairs that the published first stage draws."""


@dataclass(frozen=True)
class Plan:
    """What one `deltactl featurize` makes."""

    shards: ShardSet
    root: Location
    identity: Identity
    crops: Crops
    layout: Layout
    views: tuple[int, ...]
    jobs: tuple[Job, ...]
    """What is left to do, by view, then shard."""
    clips: int
    """Clips in those jobs."""
    clips_there: int
    """Clips whose group is published already."""
    generations: tuple[Mapping[str, Any], ...] = ()
    """What was added to the shards since their first generation, as the store's `artifact.json` says it."""
    awaited: tuple[str, ...] = ()
    """Shards that are still to come, where the set is unfinished."""

    def finish(self, failed: Sequence[Quarantined] = ()) -> StoreIndex | None:
        """Write index and quarantine, and which generation of the shards the store is of now."""
        extend(self.root, self.generations)
        return finish(self.root, expected=self.shards.units, failed=failed, awaited=self.awaited)

    @property
    def bytes(self) -> int:
        """Bytes that the jobs will write."""
        return self.clips * self.layout.clip_bytes

    def lines(self, frames_per_second: float | None) -> list[str]:
        """Return what the plan costs, for `--dry-run`; time needs a measured rate."""
        from deltactl.progress import counted, format_bytes, format_number, format_seconds

        views = f"views {self.views[0]} to {self.views[-1]}" if len(self.views) > 1 else f"view {self.views[0]}"
        lines = [
            f"{self.shards.root}: {counted(self.shards.count, 'clips')} in {counted(len(self.shards.units), 'shards')}",
            f"{self.root}: {views}, {counted(self.clips, 'crops')} to do, {self.clips_there:,} there already",
            f"writes {format_bytes(self.bytes)} ({format_bytes(self.layout.clip_bytes)} a crop: a clip under one view)",
        ]
        if frames_per_second is not None:
            seconds = self.clips * self.layout.frames / frames_per_second
            lines.append(
                f"takes {format_seconds(seconds)} at {format_number(frames_per_second)} frames/s, measured just now"
            )
        if self.crops == "augment" and self.layout.frames > 1:
            size = self.identity.integer("size")
            pairs = self.shards.count * len(self.views) * (self.layout.frames - 1)
            lines.append(
                f"{pairs:,} frame pairs in these views: the published first stage (1.02 billion) would see each "
                f"{format_number(PUBLISHED_PAIRS / max(pairs, 1))} times"
            )
            known = min(PAIRS_PER_SECOND_8_H200, key=lambda pixels: abs(pixels - size))
            rate = PAIRS_PER_SECOND_8_H200[known] * (known / size) ** 2
            lines.append(
                f"training the tokenizer on 8 H200 reads {format_bytes(rate * 2 * self.layout.frame_bytes)}/s "
                f"({rate:,.0f} pairs/s, as published)"
            )
        return lines


def crops_of(identity: Identity) -> Crops:
    """Return the crops of a store; DamagedError where its identity names others than there are."""
    match identity.text("crops"):
        case "augment":
            return "augment"
        case "square":
            return "square"
        case other:
            raise DamagedError(f"{identity.file} is damaged: identity.crops is {other!r}; expected augment or square")


def find_shards(given: str | None) -> ShardSet:
    """Open the shards that are named, or the only ones in the workspace; ConfigError that lists them otherwise."""
    if given is not None:
        return ShardSet.open(given)
    folder = workspace() / "shards"
    names = folder.list()
    if not names:
        raise ConfigError(f"there are no shards in {folder}; run deltactl ingest first, or name a folder of shards")
    if len(names) > 1:
        raise ConfigError(f"{folder} holds several sets of shards; name one of: {', '.join(names)}")
    return ShardSet.open(folder / names[0])


def default_name(shards: str, backbone: str, size: int) -> str:
    """Return the store's name in the workspace, such as `vspw-val-vitb16-512` for the shards `vspw-val-512`."""
    model = re.search(r"vit[a-z0-9]*\d+[a-z]*", PurePath(backbone).name.lower())
    name = model[0] if model else re.sub(r"[^A-Za-z0-9_-]", "_", PurePath(backbone).name)
    return f"{re.sub(r'-[0-9]+$', '', shards)}-{name}-{size}"


def store_location(config: FeaturizeConfig, shards: str) -> Location:
    """Return where the store of the shards of this name lies."""
    if config.out is not None:
        return Location.of(config.out)
    return default_location("features", default_name(shards, config.backbone, config.size))


def make_plan(config: FeaturizeConfig, shards: ShardSet, content_hash: str, grid: tuple[int, int], dim: int) -> Plan:
    """Return the plan; ConfigError where the settings do not suit the shards.

    `content_hash`, `grid` and `dim` are the backbone's. Groups that are there are kept, unless their shard has been
    made anew since.
    """
    if not shards.units:
        raise ArtifactError(f"{shards.root} holds no finished shards; run deltactl ingest again")
    evaluation = isinstance(data_set(shards.identity.text("dataset")), LabelledSet)
    crops: Crops = config.crops if config.crops != "auto" else "square" if evaluation else "augment"
    if evaluation and crops == "square" and (stored := shards.identity.integer("size")) != config.size:
        raise ConfigError(
            f"--size is {config.size}, but {shards.root} was ingested at {stored}; evaluation frames are "
            f"resized once: use --size {stored}, or run ingest with --size {config.size}"
        )
    refuse_unused(config, ("--seed", crops == "augment", "draws random crops, and these views are square ones"))
    root = store_location(config, shards.root.name)
    there = tuple(published(root)) if crops == "augment" and not config.drop_views else ()
    views: Sequence[int] = there or range(SQUARE_VIEWS if crops == "square" else 1)
    if config.views:
        views = parse_views(config.views)
    if crops == "square" and max(views) >= SQUARE_VIEWS:
        raise ConfigError(f"--views is {config.views}, but square crops have two views, 0 and 1")
    identity = Identity("features", _identity_values(config, shards, crops, content_hash))
    units = part_of(shards.units, config.part)
    jobs, clips, clips_there = _jobs(root, shards, views, units)
    rows, columns = grid
    return Plan(
        shards=shards,
        root=root,
        identity=identity,
        crops=crops,
        layout=Layout("features", shards.identity.integer("frames"), (rows * columns, dim)),
        views=tuple(views),
        jobs=jobs,
        clips=clips,
        clips_there=clips_there,
        generations=generations_of(shards),
        awaited=awaited_of(shards),
    )


def generations_of(shards: ShardSet) -> tuple[Mapping[str, Any], ...]:
    """Return what the store of a set of shards says of each generation after the first: its hash."""
    return tuple({"shards": each} for each in hashes_of(shards.identity, shards.generations)[1:])


def awaited_of(shards: ShardSet) -> tuple[str, ...]:
    """Return the shards that are still to come in a set whose ingest has not ended."""
    there = set(shards.units)
    return () if shards.complete else tuple(unit for unit in planned_units(shards) if unit not in there)


def _identity_values(config: FeaturizeConfig, shards: ShardSet, crops: Crops, content_hash: str) -> Mapping[str, Any]:
    values = {
        "format": FORMAT,
        "backbone": content_hash,
        "size": config.size,
        "crops": crops,
        "frames": shards.identity.integer("frames"),
        "shards": shards.identity.hash(),
    }
    # Square crops draw nothing, so that a seed makes no difference to them.
    return {**values, "seed": config.seed} if crops == "augment" else values


def is_of_shard(root: Location, view: int, unit: str, shards: ShardSet) -> bool:
    """Whether a group was made from its shard as that is now; DamagedError where it is not there, or damaged."""
    return read_group_file(root, view, unit).shard_sha256 == shards.sidecar(unit).tar_sha256


def _jobs(
    root: Location, shards: ShardSet, views: Sequence[int], units: Sequence[str]
) -> tuple[tuple[Job, ...], int, int]:
    """Return what is left to do, its clips, and the clips that are there."""
    groups = {view: set(names) for view, names in published(root).items()}

    def job(place: tuple[int, str]) -> Job | None:
        view, unit = place
        if unit not in groups.get(view, ()):
            return Job(view, unit)
        return None if is_of_shard(root, view, unit, shards) else Job(view, unit, replace=True)

    with ThreadPoolExecutor(READERS) as pool:
        jobs = list(pool.map(job, [(view, unit) for view in views for unit in units]))
    left = tuple(each for each in jobs if each is not None)
    clips = sum(shards.clips_in(each.unit) for each in left)
    return left, clips, len(views) * sum(shards.clips_in(unit) for unit in units) - clips
