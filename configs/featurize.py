"""The configuration of `deltactl featurize`, and what it shares with that of `deltactl tokenize`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deltactl.configs.clips import ClipsConfig
from deltactl.configs.engine import EngineConfig
from deltactl.configs.shared import DEFAULT_BACKBONE, AugmentationConfig, BackboneConfig, DeviceConfig
from deltactl.configs.values import Backbone, Form, Place, Views


class FeaturesConfig(EngineConfig, DeviceConfig, AugmentationConfig, BackboneConfig):
    """How the frozen backbone makes features of shards, or straight from videos."""

    crops: Literal["auto", "augment", "square", "whole"] = "auto"
    """What a view shows: a random crop and flip (augment), a square end of the frame (square), or all of it (whole).
    auto: augment for training video; for evaluation sets square, or whole where `size` is no square."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    """Type of the numbers that are stored. bfloat16 has the range of float32 and three bits less than float16: for
    networks with features beyond 65504."""

    batch_size: int | None = Field(default=None, ge=1)
    """Frames in a batch of the backbone; by default the largest that fits on a GPU, and 8 on a CPU. Halved, with a
    word, where a GPU's memory runs full."""

    compile: bool | None = None
    """Whether to compile the networks with torch.compile; by default on a GPU only."""

    decode_threads: int | None = Field(default=None, ge=1)
    """Threads that decode frames, in each worker; straight from videos, processes that do. By default by the number of
    cores."""

    videos: ClipsConfig = ClipsConfig()
    """Straight from videos: which clips are cut from them, as ingest would."""


class FeaturizeConfig(FeaturesConfig):
    """Everything a feature store depends on."""

    backbone: Backbone = DEFAULT_BACKBONE
    """Frozen backbone: a name on the Hub, or a folder."""

    shards: Place | tuple[Place, ...] | None = None
    """Folder or URL of the shards, by default the only ones in the workspace; or what ingest takes: a folder of videos,
    the root of a data set or a zip, or several folders and videos."""

    views: Views | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to make: N for the first N, or A:B for A up to B - 1. By default 1 random crop, the
    whole frame, or both square crops."""

    drop_views: Annotated[str, Form("N|A:B|A,B")] | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to remove, before others are made, by their numbers: one (2), a range (0:4 for 0 to 3), or several
    (0,3). Not a count. Asks, or takes --yes."""

    decoder: Literal["auto", "opencv", "dali"] = "auto"
    """What decodes frames; auto is DALI for JPEGs where there is a GPU and it is installed, else OpenCV."""

    @property
    def places(self) -> tuple[str, ...]:
        """What `shards` names."""
        return self.shards if isinstance(self.shards, tuple) else () if self.shards is None else (self.shards,)
