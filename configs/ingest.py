"""The configuration of `deltactl ingest`: which sources, how many frames and clips, how large, and how to work.

Defaults that depend on the data set stand as None; `ingest.settle` fills them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deltactl.configs.engine import EngineConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.names import DataSetName, root_variable
from deltactl.configs.values import File, Size, Stride, Variable
from deltactl.registry import DATASETS

Split = Literal["train", "val"]
DecoderChoice = Literal["auto", "dali", "pyav"]


class IngestConfig(EngineConfig):
    """Everything an ingest depends on."""

    source: Annotated[str | tuple[str, ...] | None, Variable(root_variable, by="dataset", of=DATASETS.names)] = None
    """Root of the data set: a folder, for Kinetics also a zip file, or a video, or several folders and videos."""

    dataset: DataSetName | None = None
    """How the sources are laid out, and how clips are cut from them. By default by the look of the source: kinetics
    without one, or where it is a zip or has a folder of the split; else folder."""

    split: Split | None = None
    """Which part of the data set; by default train for Kinetics, val for the evaluation sets. A plain folder has
    none."""

    frames: int | None = Field(default=None, ge=1, le=999)
    """Frames in a clip; by default 8 for training video, 7 for the evaluation sets."""

    frames_per_step: int = Field(default=1, ge=1, le=99)
    """Frames that the backbone makes one step of features from. Each frame of an evaluation set comes with the N - 1
    before it, spread over the time since the frame before. Clips of training video need nothing but --frames, a
    multiple of N."""

    clips: int | None = Field(default=None, ge=1, le=999)
    """Clips cut from each video; by default 8 for Kinetics, 1 for a folder. Evaluation sets fix their own clips."""

    stride: Stride = "0.04:1/3"
    """Seconds from one frame of a clip to the next, drawn from A to B; one number is a fixed step. The default is the
    paper's. Evaluation sets fix theirs."""

    size: Size = FrameSize(512, 512)
    """Frames that the shards must serve, in pixels: N for squares, HxW (height first) for others. Training frames are
    shrunk, never enlarged, as far as both sides keep 1.3 × this. Evaluation frames get exactly N as their short side,
    or exactly HxW."""

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

    @property
    def paths(self) -> tuple[str, ...]:
        """What `source` names."""
        return self.source if isinstance(self.source, tuple) else (self.source,) if self.source is not None else ()
