"""Plans the ingest of training video: Kinetics, or any folder of videos.

Takes the config and what the set holds already, returns a plan whose units hold the sources in sorted order, as many as
fill a shard. Sources that were added since go to units of their own, after those that are there. Of several copies of a
file, one is taken. Listing 536,000 sources takes a few seconds, and a look at the size of each a few more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deltactl.artifacts import part_of, written
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.values import parse_range
from deltactl.datasets.known import video_set
from deltactl.datasets.record import VideoSet
from deltactl.errors import ConfigError, MissingExtraError
from deltactl.ingest.copies import FileState, states_of
from deltactl.ingest.growth import Made, arrange, notes_of, said_before, with_marks
from deltactl.ingest.record import Generation
from deltactl.ingest.shards.columns import Columns, columns_to_json
from deltactl.ingest.sources import VideoListing, choose_cameras, select
from deltactl.ingest.units import Plan, UnitPlan, hash_names, split_into_units
from deltactl.ingest.video.columns import NONE, TIMES, ChosenColumns, ColumnReader, beside_note, columns_of
from deltactl.ingest.video.cutting import ClipCutter, CutConfig
from deltactl.ingest.video.decode_dali import dali_is_installed
from deltactl.ingest.video.sidecars import marks_of
from deltactl.ingest.video.videos import VideoClipMaker

SAMPLING = 1
"""Changes when the same seed would draw other clips."""


def plan_training(
    config: IngestConfig, processes: int, made: Made, *, stored: bool = True, only: Collection[str] | None = None
) -> Plan:
    """Return what an ingest of training video makes. `config` is resolved (`settle.resolved`).

    `processes` is how many may decode at once; `made` is what the set becomes, or is. Unless clips are `stored`, their
    frames are as they were decoded, and neither size nor quality is part of what they are. `only` names the sources
    to take, by their whole names.

    Raises:
        ConfigError: there are no sources, or a list cannot be used.
        IdentityError: sources of the set that is there are gone or have changed.
        MissingExtraError: DALI is asked for and not installed.
    """
    if config.decoder == "dali" and not dali_is_installed():
        raise MissingExtraError("NVIDIA DALI", "gpu", "--decoder dali")
    assert config.source is not None
    assert config.clips is not None
    assert config.frames is not None
    listing = list_training(config)
    if only is not None:
        listing = replace(listing, sources=tuple(source for source in listing.sources if source.name in only))
    names = [source.name for source in listing.sources]
    assert config.dataset is not None
    record = video_set(config.dataset)
    states = _states(listing)
    per_unit = max(1, config.shard_clips // config.clips)
    kind = {"dataset": config.dataset, "split": config.split}
    said = said_before(made, kind)
    there, generations = arrange(made, said, listing.root, names, states, per_unit)
    chosen = _choose_columns(config, record, said, listing, generations[0].names)
    columns = chosen.columns
    if chosen.in_files:
        marks = marks_of(listing.root, listing.sources, {TIMES, *chosen.in_files})
        # Other columns than those that are there make another identity, and are refused for that.
        same = said is not None and said.get("columns") == columns_to_json(columns)
        generations = with_marks(made, there if same else 0, generations, marks, per_unit)
    split = _split(generations, listing, per_unit, config.clips)
    units = tuple(unit for part in split for unit in part)
    cut_config = CutConfig(
        dataset=listing.dataset,
        root=str(listing.root),
        clips=config.clips,
        frames=config.frames,
        size=config.size if stored else None,
        quality=config.quality,
        seed=config.seed,
        stride=parse_range(config.stride),
        columns=ColumnReader(listing.root, columns, record.path_texts) if columns else None,
    )
    return Plan(
        dataset=listing.dataset,
        root=str(listing.root),
        units=units,
        sources=sum(len(generation.names) + len(generation.copies) for generation in generations),
        identity=_identity(config, generations[0].names, columns, stored=stored),
        maker=VideoClipMaker(
            ClipCutter(cut_config, dali=config.decoder == "dali"),
            # Where shards are fewer than cores, each shard's sources are decoded by several processes.
            children=max(1, processes // len(part_of(units, config.part) or units))
            if config.engine == "local"
            else max(1, int(config.worker_cpus or 1)),
            time_limit_seconds=config.time_limit,
        ),
        notes=(*listing.notes, *_column_notes(config, listing, columns), *notes_of(there, generations)),
        generations=tuple(
            generation.entry(len(part)) for generation, part in zip(generations[1:], split[1:], strict=True)
        ),
        record=tuple(generation.to_json() for generation in generations),
        copies={copy: original for generation in generations for copy, original in generation.copies.items()},
    )


def _states(listing: VideoListing) -> dict[str, FileState]:
    """Return what is known of the files of sources, by the sources' names."""
    files = states_of(listing.root, sorted({each.file for each in listing.sources if each.file is not None}))
    found = {}
    for source in listing.sources:
        if source.file is not None and (state := files.get(source.file)) is not None:
            found[source.name] = state if source.file == source.name else replace(state, inode=None)
    return found


def list_training(config: IngestConfig) -> VideoListing:
    """Return the sources that a resolved configuration names."""
    for source in config.paths:
        if "://" in source:
            raise ConfigError(f"{source} is not on a local disk; videos are read from disks, copy or mount them")
    paths = [Path(source).expanduser().absolute() for source in config.paths]
    assert config.dataset is not None
    listing = video_set(config.dataset).listing(paths, config.split)
    if config.cameras is not None:
        listing = choose_cameras(listing, config.cameras)
    return select(listing, *(Path(name) if name else None for name in (config.split_file, config.exclude)))


def _split(
    generations: Sequence[Generation], listing: VideoListing, per_unit: int, clips: int
) -> list[tuple[UnitPlan, ...]]:
    """Return the units of each generation, which are numbered on from those of the one before."""
    sources = {source.name: source for source in listing.sources}
    split: list[tuple[UnitPlan, ...]] = []
    first = 0
    for generation in generations:
        items = [sources[name] for name in generation.names]
        split.append(split_into_units(items, items_per_unit=per_unit, clips_per_item=clips, first=first))
        first += len(split[-1])
    return split


def _choose_columns(
    config: IngestConfig,
    record: VideoSet,
    said: Mapping[str, Any] | None,
    listing: VideoListing,
    first: Sequence[str],
) -> ChosenColumns:
    """Return the columns that are asked for, else those that the paths of its sources tell.

    `said` is what the identity of what was made says; what was made without columns goes on so. `first` are the sources
    that the set began with.
    """
    told = {} if record.path_texts is None or not first else record.path_texts(first[0])
    own = {} if said is not None and "columns" not in said else told
    chosen = config.columns or ",".join(own) or NONE
    if chosen == NONE:
        return ChosenColumns()
    began = set(first)
    sources = [source for source in listing.sources if source.name in began]
    return columns_of(chosen, listing.root, sources, record.path_texts)


def _column_notes(config: IngestConfig, listing: VideoListing, columns: Columns) -> list[str]:
    notes = [f"columns: {', '.join(map(str, columns))}"] if columns else []
    note = beside_note(listing.columns, listing.sources) if config.columns is None else None
    return notes if note is None else [*notes, note]


def _identity(config: IngestConfig, names: Sequence[str], columns: Columns, *, stored: bool) -> dict[str, Any]:
    return {
        "dataset": config.dataset,
        "split": config.split,
        "frames": config.frames,
        "clips": config.clips,
        **({"size": config.size.value, "quality": config.quality} if stored else {}),
        "seed": config.seed,
        "shard_clips": config.shard_clips,
        "sampling": SAMPLING,
        "sources": len(names),
        "sources_sha256": hash_names(names),
        **written(stride=config.stride),
        **({"columns": columns_to_json(columns)} if columns else {}),
    }
