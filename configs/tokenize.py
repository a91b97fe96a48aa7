"""The configuration of `deltactl tokenize`: what to encode and with which tokenizer; for shards, as for featurize."""

from __future__ import annotations

from pydantic import Field

from deltactl.configs.featurize import FeaturesConfig
from deltactl.configs.values import Checkpoint, Place, Views


class TokenizeConfig(FeaturesConfig):
    """Everything a token store depends on."""

    data: Place | None = None
    """Feature store, or shards; by default the only store, else the only shards, in the workspace."""

    tokenizer: Checkpoint | None = None
    """The tokenizer: a file, a run, or a name on the Hub. There is no default."""

    views: Views | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to encode: N for the first N, or A:B for A up to B - 1. By default those of the store, or as
    featurize."""
