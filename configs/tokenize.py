"""The settings of `deltactl tokenize`: what to encode, with which tokenizer, and how to work.

From a feature store the first group is enough. From shards the second decides what the frozen backbone sees, as in
`deltactl featurize`; a store has that behind it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS
from deltactl.configs.engine import EngineConfig
from deltactl.configs.featurize import Precision


class TokenizeConfig(EngineConfig):
    """Everything a token store depends on."""

    data: str | None = None
    """Feature store, or shards; the only store, else the only shards, in the workspace where it is None."""

    tokenizer: str | None = None
    """Checkpoint of the tokenizer: a file, a run, or a Hub name. There is no default."""

    out: str | None = None
    """Folder or URL of the tokens; in the workspace, named as the feature store (would be), where it is None."""

    views: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to encode: N for the first N, or A:B for A up to B - 1. None: those of the store, or as featurize."""

    backbone: str = Field(default="facebook/dinov3-vitb16-pretrain-lvd1689m", json_schema_extra=FOLLOWS)
    """Name on the Hub, or folder, of the frozen backbone that shards need."""

    size: int = Field(default=512, ge=16, json_schema_extra=FOLLOWS)
    """Side in pixels of the squares that the backbone sees, for shards. Where it is not set, that of the tokenizer's
    training where its checkpoint says, and no more than the shards'."""

    crops: Literal["auto", "augment", "square"] = "auto"
    """What a view of shards shows; as for featurize."""

    seed: int = 0
    """Where the random crops of shards are drawn from; as for featurize."""

    batch_size: int | None = Field(default=None, ge=1)
    """Frames in a batch of the backbone; the largest that fits on a GPU and 8 on a CPU where it is None. Halved, with a
    word, where a GPU's memory runs full."""

    device: str = "auto"
    """What to compute on: auto (all GPUs there are, else the CPU), cpu, cuda, or cuda:N."""

    precision: Precision = "auto"
    """Of the matrix products; auto is bfloat16 on a GPU, float32 on a CPU."""

    compile: bool | None = None
    """Whether to compile backbone and tokenizer with torch.compile; on a GPU only where it is None."""

    decode_threads: int | None = Field(default=None, ge=1)
    """Threads that decode frames, in each worker; by the number of cores where it is None."""

    part: str | None = None
    """Only the I-th of N parts of the shards, as I/N, for job arrays."""

    max_bad: float = Field(default=0.05, ge=0, le=1)
    """Share of the clips that may be unusable before the command fails (what was written is kept)."""
