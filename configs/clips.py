"""Which videos clips are cut from, and how: what `deltactl ingest` and a stage straight from videos share.

Defaults that depend on the data set stand as None; `ingest.settle` fills them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from deltactl.configs.base import Config
from deltactl.configs.names import DataSetName
from deltactl.configs.values import File, Form, Stride, check_columns, check_names

Split = Literal["train", "val"]
DecoderChoice = Literal["auto", "dali", "pyav"]


class ClipsConfig(Config):
    """Everything that decides which clips there are, but the seed."""

    dataset: DataSetName | None = None
    """How the sources are laid out, and how clips are cut from them. By default by the look of the source: kinetics
    without one, or where it is a zip or has a folder of the split; lerobot where it has meta/info.json; hdf5 for files
    .hdf5 and .h5; else folder. FILE.yaml tells of a set with labels (`deltactl config show dataset`)."""

    split: Split | None = None
    """Which part of the data set; by default train for videos and episodes, val for the evaluation sets. A plain folder
    has none."""

    cameras: Annotated[str, Form("NAME,NAME"), AfterValidator(check_names)] | None = None
    """Which cameras of episodes of robots to take: names between commas, whole or what follows their last dot. By
    default all; each camera of an episode is a source."""

    frames: int | None = Field(default=None, ge=1, le=999)
    """Frames in a clip; by default 8 for training video, 7 for the evaluation sets."""

    clips: int | None = Field(default=None, ge=1, le=999)
    """Clips cut from each video or episode; by default 8 for Kinetics, else 1. Evaluation sets fix their own clips."""

    stride: Stride = "0.04:1/3"
    """Seconds from one frame of a clip to the next, drawn from A to B; one number is a fixed step. The default is the
    paper's. Evaluation sets fix theirs."""

    columns: Annotated[str, Form("NAME,NAME|all|none"), AfterValidator(check_columns)] | None = None
    """What clips carry besides their frames (actions, states, camera, text …): names between commas, or all. Episodes
    of robots bring theirs; else they are of NAME.columns.npz beside each video NAME.mp4 or folder of frames NAME. By
    default what the path of a video tells, for Kinetics clip.class and clip.split; none is nothing."""

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
