"""The configuration of `deltactl train world`; the defaults are DeltaWorld's published first stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.shared import LiveAugmentationConfig, WhereConfig
from deltactl.configs.training import HEAD_WIDTH, TrainingConfig
from deltactl.configs.values import Checkpoint, Precision


class WorldNetworkConfig(Config):
    """Which world model, and its sizes."""

    kind: Literal["deltaworld", "dinoworld"] = "deltaworld"
    """deltaworld predicts many possible tokens, dinoworld (the discriminative baseline) one set of patch features."""

    width: int = Field(default=768, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)
    """Width of the queries and the predictor, a multiple of 64; each head is 64 wide."""

    depth: int = Field(default=12, ge=1)
    """Blocks of the predictor."""

    layer_scale: float = Field(default=1e-5, gt=0)
    """Initial value of the layer scales; small runs learn faster from a larger one."""


class WorldConfig(LiveAugmentationConfig, WhereConfig, TrainingConfig):
    """Everything a training run of a world model depends on; what it shares has the published values."""

    network: WorldNetworkConfig = WorldNetworkConfig()
    """Which world model, and its sizes."""

    tokenizer: Checkpoint | None = None
    """The frozen tokenizer: a file, a run, or a name on the Hub. Needed to train from features or shards; tokens know
    theirs."""

    batch_size: int = Field(default=128, ge=1)
    """Samples on each device at a time; fewer where all devices together would take more than `effective_batch`. The
    published 32 H200 took 32 each; from tokens a GPU gains from more."""

    frames: int = Field(default=8, ge=2, json_schema_extra=FOLLOWS)
    """Frames in a training clip. Where it is not set, those of the data's clips."""

    queries: int = Field(default=256, ge=1)
    """Queries tried for each target frame, of which the best one learns; dinoworld has none."""

    search_precision: Precision = "auto"
    """Type of the matrix products that try the queries; auto is that of the training step. In bfloat16 a query is now
    and then kept that is not quite the best; CPUs with AMX or AVX512-BF16 do the search in half the time."""
