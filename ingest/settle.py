"""Fills in what the configuration of an ingest leaves open: the data set by its look, and its defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deltactl.configs.base import with_environment
from deltactl.configs.follow import refuse_unused
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.names import LAYOUTS, root_variable
from deltactl.datasets.known import data_set, read_again
from deltactl.datasets.record import LabelledSet, VideoSet
from deltactl.errors import ConfigError
from deltactl.ingest.sources import HDF5_SUFFIXES
from deltactl.reading import leads_to_file

TRAINING_FRAMES, EVALUATION_FRAMES = 8, 7
LABELS_ALONE = 1
"""Frames of a clip of an evaluation set that heads are trained on."""


def resolved(config: IngestConfig) -> IngestConfig:
    """Return the configuration with source, split, frames and clips filled in.

    Raises:
        ConfigError: no source is named, or a setting does not go with the data set.
    """
    dataset = config.dataset or _look_at_source(config)
    read_again(dataset)
    record = data_set(dataset)
    training = isinstance(record, VideoSet)
    if record.split is None and config.split is not None:
        raise ConfigError(f"--split is {config.split}, but a {record.title} has no splits; leave it out")
    if len(config.paths) > 1 and not (isinstance(record, VideoSet) and not record.single_root):
        raise ConfigError(f"{len(config.paths)} sources are named, but {dataset} has one root; name that one")
    if not training and config.clips is not None:
        raise ConfigError(f"--clips is {config.clips}, but {dataset} says itself which clips it has; leave it out")
    refuse_unused(
        config,
        ("--seed", training, f"draws the times of clips, and {dataset} says itself which clips it has"),
        ("--stride", training, f"draws the times of clips, and {dataset} says itself which clips it has"),
        ("--quality", training, f"is of JPEGs, and frames of {dataset} are kept without loss"),
        ("--decoder", training, f"decodes videos, and {dataset} has pictures"),
        ("--frames-per-step", not training, "is for evaluation sets; clips of video need --frames, a multiple of it"),
        ("--cameras", training, f"chooses among cameras of episodes, and {dataset} says itself which clips it has"),
        ("--columns", training, f"takes what lies beside videos, and {dataset} has pictures"),
        ("--time-limit", training, f"is for decoding a video, and {dataset} has pictures"),
    )
    source = with_environment(config.model_copy(update={"dataset": dataset})).source
    source = source or (record.root if isinstance(record, LabelledSet) else None)
    return config.model_copy(
        update={
            "dataset": dataset,
            "source": source or _no_source(dataset),
            "split": config.split or record.split,
            "frames": config.frames or (TRAINING_FRAMES if training else EVALUATION_FRAMES),
            "clips": config.clips or (record.clips if isinstance(record, VideoSet) else 1),
        }
    )


def default_name(config: IngestConfig) -> str:
    """Return the name of the shards in the workspace: data set, split unless it is train, size unless it is 512.

    Evaluation sets always carry both, and the frames of a step where they are several, as in `vspw-val-2frames-512`;
    clips of another length than the published one carry it too, as in `vspw-val-clips14-512`.
    """
    assert config.dataset is not None
    if not isinstance(record := data_set(config.dataset), VideoSet):
        steps = "" if config.frames_per_step == 1 else f"-{config.frames_per_step}frames"
        length = "" if config.frames in (None, LABELS_ALONE, EVALUATION_FRAMES) else f"-clips{config.frames}"
        return f"{record.name}-{config.split}{length}{steps}-{config.size}"
    parts = [_folder_name(config.paths) if config.dataset in LAYOUTS else config.dataset]
    parts += ["val"] if config.split == "val" else []
    parts += [str(config.size)] if config.size != type(config).model_fields["size"].default else []
    return "-".join(parts)


def _look_at_source(config: IngestConfig) -> str:
    if not config.paths:
        return "kinetics"
    if all(Path(path).suffix.lower() in HDF5_SUFFIXES for path in config.paths):
        return "hdf5"
    if len(config.paths) > 1:
        return "folder"
    root = Path(config.paths[0]).expanduser()
    if leads_to_file(root / "meta" / "info.json"):
        return "lerobot"
    zipped = root.is_file() and (root.suffix == ".zip" or ".part" in root.name)
    return "kinetics" if zipped or (root / (config.split or "train")).is_dir() else "folder"


def _no_source(dataset: str) -> NoReturn:
    variable = root_variable(dataset)
    if variable is None:
        what = "folder of videos" if dataset == "folder" else data_set(dataset).title
        raise ConfigError(f"no source is given; name the {what}: deltactl ingest DIR --dataset {dataset}")
    raise ConfigError(f"no source is given and {variable} is not set; name the root of {dataset}, or set {variable}")


def _folder_name(sources: Sequence[str]) -> str:
    """Return the name of what is ingested: a folder's, a video's without its suffix, or that of what holds all."""
    paths = [Path(source).expanduser().absolute() for source in sources]
    if len(paths) == 1:
        name = paths[0].stem if paths[0].is_file() else paths[0].name
    else:
        name = Path(os.path.commonpath([path.parent if path.is_file() else path for path in paths])).name
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name) or "folder"
