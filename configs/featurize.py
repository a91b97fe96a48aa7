"""The settings of `deltactl featurize`: which shards and backbone, which views, and how to work.

The first group decides what the features are (the store's identity), the second how they are made.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS
from deltactl.configs.engine import EngineConfig

Precision = Literal["auto", "float32", "bfloat16"]


class FeaturizeConfig(EngineConfig):
    """Everything a feature store depends on."""

    shards: str | None = None
    """Folder or URL of the shards; the only set there is in the workspace where it is None."""

    backbone: str = "facebook/dinov3-vitb16-pretrain-lvd1689m"
    """Name on the Hub, or folder, of the frozen DINOv3 backbone."""

    size: int = Field(default=512, ge=16, json_schema_extra=FOLLOWS)
    """Side in pixels of the squares that the backbone sees; a multiple of its patch size. Where it is not set, that of
    the shards."""

    crops: Literal["auto", "augment", "square"] = "auto"
    """What a view shows: a random crop and flip (augment), or a square end of the frame (square). auto: square for
    evaluation sets, augment for training video."""

    seed: int = 0
    """Where the random crops and flips are drawn from, together with the clip's key and the number of the view."""

    views: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to make: N for the first N, or A:B for A up to B - 1. None: 1 random crop, or both square ones."""

    drop_views: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to remove, by their numbers: one (2), a range (0:4 for 0 to 3), or several (0,3). Not a count."""

    out: str | None = None
    """Folder or URL of the store; in the workspace, named after shards, backbone and size, where it is None."""

    batch_size: int | None = Field(default=None, ge=1)
    """Frames in a batch of the backbone; the largest that fits on a GPU and 8 on a CPU where it is None. Halved, with a
    word, where a GPU's memory runs full."""

    device: str = "auto"
    """What to compute on: auto (all GPUs there are, else the CPU), cpu, cuda, or cuda:N."""

    precision: Precision = "auto"
    """Of the backbone's matrix products; auto is bfloat16 on a GPU, float32 on a CPU. A dry run measures bfloat16 on a
    CPU that is fast at it, and offers it where the features stay near enough."""

    compile: bool | None = None
    """Whether to compile the backbone with torch.compile; on a GPU only where it is None."""

    decoder: Literal["auto", "opencv", "dali"] = "auto"
    """What decodes frames; auto is DALI for JPEGs where there is a GPU and it is installed, else OpenCV."""

    decode_threads: int | None = Field(default=None, ge=1)
    """Threads that decode frames, in each worker; by the number of cores where it is None."""

    part: str | None = None
    """Only the I-th of N parts of the shards, as I/N, for job arrays."""

    max_bad: float = Field(default=0.05, ge=0, le=1)
    """Share of the clips that may be unreadable before the command fails (what was written is kept)."""
