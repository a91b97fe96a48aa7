"""What a featurize will do: which store, whose identity, which jobs are left; a function of origin and settings."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deltactl.artifacts import UNWRITTEN, Identity, Quarantined, default_location, part_of, written
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.follow import Fact, follow, refuse_unused
from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.known import data_set
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.featurize.backbones.known import read_facts, split
from deltactl.featurize.origins import Found, Origin, find_origin, name_of, origin_of
from deltactl.featurize.pipeline.events import Job, JobResult
from deltactl.featurize.store.finish import finish, layout_of, published, read_group_file, shard_hashes
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import DATA_FORMAT, Layout
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import (
    FIXED_VIEWS,
    SHOWN,
    Augmentation,
    Crops,
    evaluated,
    parse_view_numbers,
    parse_views,
)
from deltactl.generations import extend
from deltactl.ingest.shards.columns import columns_of_identity
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import counted, format_bytes, format_number, format_seconds

log = logging.getLogger(__name__)

READERS = 16
PAIRS_PER_SECOND_8_H200 = {256: 3470, 1024: 800}
"""Frame pairs a second that 8 H200 trained the published tokenizer with, by the patches of a frame, each as wide as
`PUBLISHED_WIDTH` (from its cost: 82 h for 10⁶ steps of 1024 at 256 px; at 512 px 89 h for half as many on 16)."""
PUBLISHED_WIDTH = 768
PUBLISHED_PAIRS = 1_024_000_000
"""Pairs that the published first stage draws."""


@dataclass(frozen=True)
class StorePlan:
    """What a stage that fills a store makes: groups of features, or of tokens."""

    data: Origin | FeatureStore
    """What they are made from."""
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
    """Clips whose group is published already."""
    generations: tuple[Mapping[str, Any], ...]
    """What was added to the shards since their first generation, as the store's `artifact.json` says it."""
    awaited: tuple[str, ...]
    """Shards that are still to come, where what the store is made from is unfinished."""

    @property
    def crop_bytes(self) -> int:
        """Bytes of a clip under one view."""
        return self.layout.clip_bytes + self.layout.carried_bytes

    @property
    def bytes(self) -> int:
        """Bytes that the jobs will write."""
        return self.clips * self.crop_bytes

    def clips_in(self, job: Job) -> int:
        """Return how many clips a job has."""
        return self.data.clips_in(job.unit)

    def found(self, job: Job) -> JobResult | None:
        """Return the result of a job whose group is published by now; None where it is not, or is of another shard."""
        group = (job.view, job.unit)
        try:
            there = shard_hashes(self.root, [group])[group] == shard_hash(self.data, job)
        except DamagedError:
            there = False
        return JobResult(job, self.clips_in(job), 0, (), 0, made=False) if there else None

    def begin(self) -> None:
        """Write what must stand in the store, once it is opened, before its first group."""
        if isinstance(self.data, Origin):
            self.data.begin(self.root)

    def carries(self) -> list[str]:
        """Return which columns clips carry, for `--dry-run`; nothing where they carry none."""
        return [f"columns: {', '.join(map(str, self.layout.carried))}"] if self.layout.carried else []

    def finish(self, failed: Sequence[Quarantined] = ()) -> StoreIndex | None:
        """Write index and quarantine, and which generation of the shards the store is of now."""
        extend(self.root, self.generations)
        index = finish(self.root, expected=self.units, failed=failed, awaited=self.awaited)
        if index is not None:
            pack_store(self.root, index)
        return index


@dataclass(frozen=True)
class Plan(StorePlan):
    """What one `deltactl featurize` makes."""

    config: FeaturizeConfig
    """The settings, with the size that follows the shards."""
    origin: Origin
    crops: Crops
    views: tuple[int, ...]
    grid: tuple[int, int]
    """Rows and columns of patches."""

    def lines(self, frames_per_second: float | None) -> list[str]:
        """Return what the plan costs, for `--dry-run`; time needs a measured rate."""
        views = f"views {self.views[0]} to {self.views[-1]}" if len(self.views) > 1 else f"view {self.views[0]}"
        lines = [
            f"{self.origin.root}: {counted(self.origin.count, 'clips')} in "
            f"{counted(len(self.origin.units), self.origin.title)}",
            f"{self.root}: {views}, {counted(self.clips, 'crops')} to do, {self.clips_there:,} there already",
            f"writes {format_bytes(self.bytes)} ({format_bytes(self.crop_bytes)} a crop: a clip under one view)",
            *self.carries(),
        ]
        if frames_per_second is not None:
            seconds = self.clips * self.origin.identity.integer("frames") / frames_per_second
            lines.append(
                f"takes {format_seconds(seconds)} at {format_number(frames_per_second)} frames/s, measured just now"
            )
        if self.crops == "augment" and self.layout.frames > 1:
            pairs = self.origin.count * len(self.views) * (self.layout.frames - 1)
            lines.append(
                f"{pairs:,} frame pairs in these views: the published first stage (1.02 billion) would see each "
                f"{format_number(PUBLISHED_PAIRS / max(pairs, 1))} times"
            )
            patches, width = self.layout.frame_shape
            known = min(PAIRS_PER_SECOND_8_H200, key=lambda count: abs(math.log(count / patches)))
            # The work goes with the patches, and with the square of their width.
            rate = PAIRS_PER_SECOND_8_H200[known] * known / patches * (PUBLISHED_WIDTH / width) ** 2
            lines.append(
                f"training the tokenizer on 8 H200 reads {format_bytes(rate * 2 * self.layout.frame_bytes)}/s "
                f"({rate:,.0f} pairs/s, reckoned from the published rate by {patches:,} patches of width {width:,})"
            )
        return lines


def default_name(shards: str, backbone: str, size: FrameSize) -> str:
    """Return the store's name in the workspace, such as `vspw-val-vitb16-512` for the shards `vspw-val-512`.

    DINOv3's vision transformers go by their size alone; chosen layers are told, as in `kinetics-dinov2-base-l8-11-raw`.
    """
    parts = split(backbone)
    last, choice = PurePath(parts.place).name, parts.choice
    model = re.search(r"(?:^|dinov3[-_])(vit[a-z0-9]*\d+[a-z]*)", last.lower())
    name = model[1] if model else re.sub(r"[^A-Za-z0-9_-]", "_", last)
    name += "" if choice.layers is None else f"-l{'-'.join(map(str, choice.layers))}"
    name += "" if choice.norm else "-raw"
    return f"{re.sub(r'-[0-9]+(x[0-9]+)?$', '', shards)}-{name}-{size}"


def store_location(config: FeaturizeConfig, found: Found) -> Location:
    """Return where the store of what was found lies; `config` has the size that follows it."""
    if config.out is not None:
        return Location.of(config.out)
    return default_location("features", default_name(name_of(found), config.backbone, config.size))


def plan(config: FeaturizeConfig) -> Plan:
    """Return the plan of a featurize; of the backbone it reads the files, and loads no network.

    Groups that are there are kept, unless their view is to be dropped or their shard has been made anew since.

    Raises:
        ConfigError: the settings do not suit the origin or the backbone, or name no single set of shards.
        ArtifactError: what should be shards holds none.
        CheckpointError: the backbone is not whole.
        IdentityError: videos that the store was made of are gone or have changed.
    """
    found = find_origin(config.places, config)
    config = follow_size(config, found)
    root = store_location(config, found)
    return plan_of(config, origin_of(found, root), root)


def plan_of(config: FeaturizeConfig, origin: Origin, root: Location) -> Plan:
    """Return the plan of the store at `root`; `config` has the size that follows the origin. Raises as `plan`."""
    backbone = read_facts(config.backbone)
    rows, columns = backbone.grid(*config.size.pair)
    if not origin.units:
        raise ArtifactError(f"{origin.root} holds no finished shards; run deltactl ingest again")
    steps = steps_in_clips(origin, config.backbone, backbone.frames_per_step)
    evaluation = isinstance(data_set(origin.identity.text("dataset")), LabelledSet)
    crops: Crops = config.crops if config.crops != "auto" else evaluated(config.size) if evaluation else "augment"
    if crops == "square" and not config.size.square:
        raise ConfigError(f"crops is square, but --size is {config.size}; use crops whole, or augment, or --size N")
    if evaluation and crops == "whole" and config.size.square:
        raise ConfigError(
            f"crops is whole, but --size is {config.size}: the whole frames of an evaluation set need --size HxW"
        )
    if evaluation and crops != "augment" and (stored := origin.identity.size) != config.size:
        raise ConfigError(
            f"--size is {config.size}, but {origin.root} was ingested at {stored}; evaluation frames are "
            f"resized once: use --size {stored}, or run ingest with --size {config.size}"
        )
    random = ("--seed", "--crop-area", "--aspect", "--flip")
    needs = f"is of random crops, and these views are {SHOWN[crops]}"
    refuse_unused(config, *((option, crops == "augment", needs) for option in random))
    there = tuple(published(root)) if crops == "augment" and not config.drop_views else ()
    views: Sequence[int] = there or range(FIXED_VIEWS.get(crops, 1))
    if config.views:
        views = parse_views(config.views)
    if max(views) >= FIXED_VIEWS.get(crops, math.inf):
        there_are = "square crops have two views, 0 and 1" if crops == "square" else "a whole frame has one view, 0"
        raise ConfigError(f"--views is {config.views}, but {there_are}")
    carried = columns_of_identity(origin.identity.values, origin.root)
    layout = Layout("features", steps, (rows * columns, backbone.dim), config.dtype, carried=carried)
    groups = origin.in_order([(view, unit) for view in views for unit in part_of(origin.units, config.part)])
    dropped = parse_view_numbers(config.drop_views) if config.drop_views else ()
    jobs = jobs_left(root, origin, groups, dropped)
    clips = sum(origin.clips_in(job.unit) for job in jobs)
    return Plan(
        data=origin,
        root=root,
        identity=Identity(
            "features",
            _identity_values(config, origin, crops, backbone.content_hash),
            names={"backbone": config.backbone, **origin.provenance},
        ),
        layout=layout_of(root, layout),
        units=tuple(origin.units),
        jobs=jobs,
        clips=clips,
        clips_there=sum(origin.clips_in(unit) for _, unit in groups) - clips,
        generations=origin.generations,
        awaited=origin.awaited,
        config=config,
        origin=origin,
        crops=crops,
        views=tuple(views),
        grid=(rows, columns),
    )


def steps_in_clips(shards: ShardSet | Origin, backbone: str, frames_per_step: int) -> int:
    """Return the steps of features in a clip, for a backbone that makes one from so many frames.

    Raises:
        ConfigError: a clip is not a whole number of steps, or an evaluation set's steps are of other frames.
    """
    frames = shards.identity.integer("frames")
    if isinstance(data_set(shards.identity.text("dataset")), LabelledSet):
        stored = shards.identity.values.get("frames_per_step", UNWRITTEN["frames_per_step"])
        if stored != frames_per_step:
            raise ConfigError(
                f"{shards.root} holds {counted(stored, 'frames')} for each step, but backbone {backbone} makes one "
                f"step of features from {frames_per_step}; run ingest with --frames-per-step {frames_per_step}"
            )
    if frames % frames_per_step:
        below = frames // frames_per_step * frames_per_step
        near = " or ".join(str(each) for each in (below, below + frames_per_step) if each)
        raise ConfigError(
            f"{shards.root} holds clips of {frames} frames, but backbone {backbone} makes one step of features from "
            f"{frames_per_step} frames; ingest clips of a multiple of {frames_per_step}, such as {near}"
        )
    return frames // frames_per_step


def _identity_values(config: FeaturizeConfig, origin: Origin, crops: Crops, content_hash: str) -> Mapping[str, Any]:
    values = {
        "format": DATA_FORMAT,
        "backbone": content_hash,
        "size": config.size.value,
        "crops": crops,
        "frames": origin.identity.integer("frames"),
        **origin.identity_values,
        **written(dtype=config.dtype),
    }
    # Other crops draw nothing, so that neither a seed nor what is drawn makes a difference to them.
    drawn = {"seed": config.seed, **Augmentation.of(config).identity}
    return {**values, **drawn} if crops == "augment" else values


def follow_size(config: FeaturizeConfig, found: Found) -> FeaturizeConfig:
    """Return settings whose size is that of the shards, unless one was set; videos have none that counts."""
    if not isinstance(found, ShardSet):
        return config
    stored = found.identity.size if "size" in found.identity.values else config.size
    config, differences = follow(config, [Fact("size", stored, str(found.root))])
    if differences and not config.size.fits_within(stored):
        log.warning("%s; frames of training video are enlarged", differences[0])
    return config


def shard_hash(data: Origin | FeatureStore, job: Job) -> str:
    """Return the hash of what a group is, or would be, made from now."""
    if isinstance(data, FeatureStore):
        return read_group_file(data.root, job.view, job.unit).shard_sha256
    return data.unit_hash(job.unit)


def jobs_left(
    root: Location, data: Origin | FeatureStore, groups: Sequence[tuple[int, str]], dropped: Sequence[int] = ()
) -> tuple[Job, ...]:
    """Return the jobs of groups that are not there, or were made from a shard that has been made anew since.

    What views that are to be `dropped` hold does not count.
    """
    there = {view: set(units) for view, units in published(root).items() if view not in dropped}
    made_from = shard_hashes(root, [(view, unit) for view, unit in groups if unit in there.get(view, ())])

    def job(group: tuple[int, str]) -> Job | None:
        view, unit = group
        make = Job if isinstance(data, FeatureStore) else data.job
        if group not in made_from:
            return make(view, unit)
        again = make(view, unit, replace=True)
        return None if made_from[group] == shard_hash(data, again) else again

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(each for each in pool.map(job, groups) if each is not None)
