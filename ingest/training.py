"""Plans the ingest of training video: Kinetics, or any folder of videos.

In comes the configuration, out comes a plan whose units hold the sources in sorted order, as many as fill a shard.
Listing 536,000 sources takes a few seconds; no file is opened.
"""

from __future__ import annotations

from pathlib import Path

from deltactl.artifacts import part_of
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ConfigError, MissingExtraError
from deltactl.ingest.cutting import ClipCutter, CutSettings
from deltactl.ingest.decode_dali import dali_is_installed
from deltactl.ingest.plan import Plan, hash_names, split_into_units
from deltactl.ingest.sources import Listing, list_folder, list_kinetics, list_paths, select
from deltactl.ingest.videos import VideoClipMaker

SAMPLING = 1
"""Changes when the same seed would draw other clips."""


def plan_training(config: IngestConfig, processes: int) -> Plan:
    """Return what an ingest of training video makes. `config` is resolved (`IngestConfig.resolved`).

    `processes` is how many may decode at once. ConfigError where there are no sources, or a list cannot be used;
    MissingExtraError where DALI is asked for and not there.
    """
    if config.decoder == "dali" and not dali_is_installed():
        raise MissingExtraError("NVIDIA DALI", "gpu", "--decoder dali")
    assert config.source is not None
    assert config.clips is not None
    assert config.frames is not None
    listing = list_training(config)
    units = split_into_units(
        listing.sources,
        items_per_unit=max(1, config.shard_clips // config.clips),
        clips_per_item=config.clips,
    )
    settings = CutSettings(
        dataset=listing.dataset,
        root=str(listing.root),
        clips=config.clips,
        frames=config.frames,
        size=config.size,
        quality=config.quality,
        seed=config.seed,
    )
    return Plan(
        dataset=listing.dataset,
        root=str(listing.root),
        units=units,
        sources=len(listing.sources),
        identity={
            "dataset": config.dataset,
            "split": config.split,
            "frames": config.frames,
            "clips": config.clips,
            "size": config.size,
            "quality": config.quality,
            "seed": config.seed,
            "shard_clips": config.shard_clips,
            "sampling": SAMPLING,
            "sources": len(listing.sources),
            "sources_sha256": hash_names(source.name for source in listing.sources),
        },
        maker=VideoClipMaker(
            ClipCutter(settings, config.decoder),
            # Where shards are fewer than cores, each shard's sources are decoded by several processes.
            children=max(1, processes // len(part_of(units, config.part) or units))
            if config.engine == "local"
            else max(1, int(config.worker_cpus or 1)),
            time_limit_seconds=config.time_limit,
        ),
        notes=listing.notes,
    )


def list_training(config: IngestConfig) -> Listing:
    """Return the sources that a resolved configuration names."""
    for source in config.paths:
        if "://" in source:
            raise ConfigError(f"{source} is not on a local disk; videos are read from disks, copy or mount them")
    paths = [Path(source).expanduser().absolute() for source in config.paths]
    if config.dataset != "folder":
        listing = list_kinetics(paths[0], config.split or "train")
    elif len(paths) == 1 and not paths[0].is_file():
        listing = list_folder(paths[0])
    else:
        listing = list_paths(paths)
    return select(listing, *(Path(name) if name else None for name in (config.split_file, config.exclude)))
