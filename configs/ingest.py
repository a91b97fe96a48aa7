"""The configuration of `deltactl ingest`: which sources, how many frames and clips, how large, and how to work.

Defaults that depend on the data set stand as None; `resolved` fills them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field

from deltactl.configs.base import with_environment
from deltactl.configs.engine import EngineConfig
from deltactl.configs.follow import refuse_unused
from deltactl.configs.values import File, Variable
from deltactl.errors import ConfigError

Dataset = Literal["kinetics", "folder", "vspw", "cityscapes", "kitti"]
Split = Literal["train", "val"]
DecoderChoice = Literal["auto", "dali", "pyav"]

ROOTS: Mapping[str, str] = {
    "kinetics": "KINETICS_ROOT",
    "vspw": "VSPW_ROOT",
    "cityscapes": "CITYSCAPES_ROOT",
    "kitti": "KITTI_ROOT",
}
"""The environment variable that names the root of each data set."""

TRAINING_SETS = ("kinetics", "folder")
TRAINING_FRAMES, EVALUATION_FRAMES = 8, 7
KINETICS_CLIPS = 8


class IngestConfig(EngineConfig):
    """Everything an ingest depends on."""

    source: Annotated[str | tuple[str, ...] | None, Variable(ROOTS, by="dataset")] = None
    """Root of the data set: a folder, for Kinetics also a zip file, or a video, or several folders and videos."""

    dataset: Dataset | None = None
    """How the sources are laid out, and how clips are cut from them. By default by the look of the source: kinetics
    without one, or where it is a zip or has a folder of the split; else folder."""

    split: Split | None = None
    """Which part of the data set; by default train for Kinetics, val for the evaluation sets. A plain folder has
    none."""

    frames: int | None = Field(default=None, ge=1, le=999)
    """Frames in a clip; by default 8 for training video, 7 for the evaluation sets."""

    clips: int | None = Field(default=None, ge=1, le=999)
    """Clips cut from each video; by default 8 for Kinetics, 1 for a folder. Evaluation sets fix their own clips."""

    size: int = Field(default=512, ge=16)
    """Pixels of the short side that the shards must serve. Training frames are shrunk to 1.3 × this, never enlarged;
    evaluation frames get exactly this."""

    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of training frames; evaluation frames are lossless."""

    split_file: File | None = None
    """File that lists the sources to take, one a line; for KITTI the Eigen split file."""

    exclude: File | None = None
    """File that lists sources to leave out, one a line."""

    shard_clips: int = Field(default=256, ge=1)
    """Clips in a shard."""

    decoder: DecoderChoice = "auto"
    """What decodes videos: pyav, or dali for what it decodes rightly for sure (on GPUs where there are any), and pyav
    for the rest. auto is pyav, until a measurement on a GPU says otherwise."""

    time_limit: float = Field(default=300.0, gt=0)
    """Seconds that one source may take before it is quarantined."""

    retry_failed: bool = False
    """Whether to make those finished shards again in which sources were quarantined."""

    def resolved(self) -> IngestConfig:
        """Return the configuration with source, split, frames and clips filled in.

        ConfigError where no source is named, or a setting does not go with the data set.
        """
        dataset = self.dataset or self._look_at_source()
        training = dataset in TRAINING_SETS
        if dataset == "folder" and self.split is not None:
            raise ConfigError(f"--split is {self.split}, but a plain folder has no splits; leave it out")
        if dataset != "folder" and len(self.paths) > 1:
            raise ConfigError(f"{len(self.paths)} sources are named, but {dataset} has one root; name that one")
        if not training and self.clips is not None:
            raise ConfigError(f"--clips is {self.clips}, but {dataset} says itself which clips it has; leave it out")
        refuse_unused(
            self,
            ("--seed", training, f"draws the times of clips, and {dataset} says itself which clips it has"),
            ("--quality", training, f"is of JPEGs, and frames of {dataset} are kept without loss"),
            ("--decoder", training, f"decodes videos, and {dataset} has pictures"),
            ("--time-limit", training, f"is for decoding a video, and {dataset} has pictures"),
        )
        source = with_environment(self.model_copy(update={"dataset": dataset})).source
        return self.model_copy(
            update={
                "dataset": dataset,
                "source": source or _no_source(dataset),
                "split": self.split or {"kinetics": "train", "folder": None}.get(dataset, "val"),
                "frames": self.frames or (TRAINING_FRAMES if training else EVALUATION_FRAMES),
                "clips": self.clips or (KINETICS_CLIPS if dataset == "kinetics" else 1),
            }
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """What `source` names."""
        return self.source if isinstance(self.source, tuple) else (self.source,) if self.source is not None else ()

    def default_name(self) -> str:
        """Return the name of the shards in the workspace: data set, split unless it is train, size unless it is 512.

        Evaluation sets always carry both.
        """
        if self.dataset not in TRAINING_SETS:
            return f"{self.dataset}-{self.split}-{self.size}"
        parts = [_folder_name(self.paths) if self.dataset == "folder" else "kinetics"]
        parts += ["val"] if self.split == "val" else []
        parts += [str(self.size)] if self.size != 512 else []
        return "-".join(parts)

    def _look_at_source(self) -> Dataset:
        if not self.paths:
            return "kinetics"
        if len(self.paths) > 1:
            return "folder"
        root = Path(self.paths[0]).expanduser()
        zipped = root.is_file() and (root.suffix == ".zip" or ".part" in root.name)
        return "kinetics" if zipped or (root / (self.split or "train")).is_dir() else "folder"


def _no_source(dataset: Dataset) -> NoReturn:
    variable = ROOTS.get(dataset)
    if variable is None:
        raise ConfigError("no source is given; name the folder of videos: deltactl ingest DIR --dataset folder")
    raise ConfigError(f"no source is given and {variable} is not set; name the root of {dataset}, or set {variable}")


def _folder_name(sources: Sequence[str]) -> str:
    """Return the name of what is ingested: a folder's, a video's without its suffix, or that of what holds all."""
    paths = [Path(source).expanduser().absolute() for source in sources]
    if len(paths) == 1:
        name = paths[0].stem if paths[0].is_file() else paths[0].name
    else:
        name = Path(os.path.commonpath([path.parent if path.is_file() else path for path in paths])).name
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name) or "folder"
