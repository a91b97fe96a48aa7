"""The configuration of `deltactl ingest`: which sources, how many frames and clips, how large, and how to work.

Defaults that depend on the data set stand as None; `ingest.settle` fills them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deltactl.configs.clips import ClipsConfig
from deltactl.configs.engine import EngineConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.names import root_variable
from deltactl.configs.values import Size, Variable
from deltactl.registry import DATASETS


class IngestConfig(EngineConfig, ClipsConfig):
    """Everything an ingest depends on."""

    source: Annotated[str | tuple[str, ...] | None, Variable(root_variable, by="dataset", of=DATASETS.names)] = None
    """Root of the data set: a folder, for Kinetics also a zip file, or a video, or several folders and videos."""

    frames_per_step: int = Field(default=1, ge=1, le=99)
    """Frames that the backbone makes one step of features from. Each frame of an evaluation set comes with the N - 1
    before it, spread over the time since the frame before. Clips of training video need nothing but --frames, a
    multiple of N."""

    size: Size = FrameSize(512, 512)
    """Frames that the shards must serve, in pixels: N for squares, HxW (height first) for others. Training frames are
    shrunk, never enlarged, as far as both sides keep 1.3 × this. Evaluation frames get exactly N as their short side,
    or exactly HxW."""

    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of training frames; evaluation frames are lossless."""

    retry_failed: bool = False
    """Whether to make those finished shards again in which sources were quarantined."""

    @property
    def paths(self) -> tuple[str, ...]:
        """What `source` names."""
        return self.source if isinstance(self.source, tuple) else (self.source,) if self.source is not None else ()
