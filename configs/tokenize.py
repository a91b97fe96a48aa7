"""The configuration of `deltactl tokenize`: what to encode and with which tokenizer; for shards, as for featurize."""

from __future__ import annotations

from pydantic import Field

from deltactl.configs.featurize import FeaturesConfig
from deltactl.configs.values import Checkpoint, Place, Views


class TokenizeConfig(FeaturesConfig):
    """Everything a token store depends on."""

    data: Place | tuple[Place, ...] | None = None
    """Feature store, or shards; by default the only store, else the only shards, in the workspace. Or what ingest
    takes: a folder of videos, the root of a data set or a zip, or several folders and videos."""

    tokenizer: Checkpoint | None = None
    """The tokenizer: a file, a run, or a name on the Hub. There is no default."""

    views: Views | None = Field(default=None, coerce_numbers_to_str=True)
    """Which views to encode: N for the first N, or A:B for A up to B - 1. By default those of the store, or as
    featurize."""

    @property
    def places(self) -> tuple[str, ...]:
        """What `data` names."""
        return self.data if isinstance(self.data, tuple) else () if self.data is None else (self.data,)
