"""What a tokenize will do: which token store, whose identity, which groups are left.

Tokens are the same thing whichever way they were made, so a store made from features and one made straight from shards
have the same identity: that of the features (made or not), and the tokenizer's weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import UNWRITTEN, Identity, default_location, part_of, written
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.follow import Fact, default_size, follow, is_chosen, refuse_unused
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.plan import Plan, StorePlan, jobs_left
from deltactl.featurize.plan import plan as plan_features
from deltactl.featurize.store.finish import layout_of
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.featurize.views import SETTINGS, parse_views
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.checkpoints.trained import mismatched_checkpoints, trained_of
from deltactl.train.data.inputs import open_input
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.settle import check_backbone, obey, view_facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenPlan(StorePlan):
    """What one `deltactl tokenize` makes."""

    config: TokenizeConfig
    """The settings, following the features, or for shards the tokenizer's training."""
    tokenizer: str
    """Its checkpoint."""
    features: Plan | None
    """How the features of shards would be made; None for a store."""

    @property
    def backbone(self) -> str | None:
        """Name or folder of the backbone behind the tokens, where it is known."""
        if self.features is not None:
            return self.config.backbone
        assert isinstance(self.data, FeatureStore)
        name = self.data.provenance.get("backbone")
        return name if isinstance(name, str) else None

    def lines(self) -> list[str]:
        """Return what the plan costs, for `--dry-run`."""
        from deltactl.progress import counted, format_bytes

        way = "straight from shards, backbone and tokenizer in one pass" if self.features else "from features"
        return [
            f"{self.data.root}: {way}",
            f"{self.root}: {counted(self.clips, 'crops')} to do, {self.clips_there:,} there already",
            f"writes {format_bytes(self.bytes)} ({format_bytes(self.layout.clip_bytes)} a crop: a clip under one view)",
        ]


def plan(config: TokenizeConfig) -> TokenPlan:
    """Return the plan of a tokenize; the tokenizer is loaded to know its hash, the backbone is not.

    Raises:
        ConfigError: no tokenizer is named, or data, tokenizer and settings do not fit together.
        ArtifactError: what is named holds neither features nor shards.
        CheckpointError: a network is not whole.
    """
    place = config.tokenizer
    if place is None:
        raise ConfigError("no tokenizer is named; give its checkpoint: --tokenizer CKPT")
    data = open_input(config.data, ("features", "shards"))
    config = _following(config, place, data)
    tokenizer = load(place, TOKENIZER)
    features: Plan | None = None
    if isinstance(data, ShardSet):
        features = plan_features(featurize_config(config, data), data)
        made_from: Plan | FeatureStore = features
        frames, dim = features.layout.frames, features.layout.frame_shape[1]
        groups = [(view, unit) for view in features.views for unit in data.units]
    else:
        assert isinstance(data, FeatureStore)
        made_from, frames, dim = data, data.frames, data.dim
        groups = [(view, unit) for view in _views(config, data) for unit in data.units_of(view)]
    if tokenizer.config.width != dim:
        raise ConfigError(
            f"the features of {data.root if features is None else config.backbone} are {dim} wide, but the tokenizer "
            f"was made for {tokenizer.config.width}; name the tokenizer that was trained on them"
        )
    part = set(part_of(made_from.units, config.part))
    groups = [group for group in groups if group[1] in part]
    root = Location.of(config.out or default_location("tokens", made_from.root.name))
    shape = (tokenizer.config.tokens_per_frame, tokenizer.config.token_width)
    jobs = jobs_left(root, data, groups)
    clips = sum(data.clips_in(job.unit) for job in jobs)
    return TokenPlan(
        data=data,
        root=root,
        identity=Identity("tokens", _identity_values(made_from.identity, network_hash(tokenizer), config)),
        layout=layout_of(root, Layout("tokens", frames, shape, config.dtype)),
        units=tuple(made_from.units),
        jobs=jobs,
        clips=clips,
        clips_there=sum(data.clips_in(unit) for _, unit in groups) - clips,
        generations=made_from.generations,
        awaited=made_from.awaited,
        config=config,
        tokenizer=place,
        features=features,
    )


def _identity_values(features: Identity, tokenizer: str, config: TokenizeConfig) -> dict[str, Any]:
    """Return the features' values, the tokenizer, and the types of both where they are not float16."""
    values = dict(features.values)
    types = written(features_dtype=values.pop("dtype", UNWRITTEN["dtype"]), dtype=config.dtype)
    return {**values, "tokenizer": tokenizer, **types}


def _following(config: TokenizeConfig, tokenizer: str, data: ClipStore | ShardSet) -> TokenizeConfig:
    """Return the settings that follow the features, or for shards the tokenizer's training, where they were not set.

    What the tokenizer was trained on and does not get is said.

    Raises:
        ConfigError: one contradicts the features that are there.
    """
    here: dict[str, str | None] = {}
    live, of_shards = isinstance(data, ShardSet), "is about the backbone's pass over shards"
    refuse_unused(
        config,
        ("--batch-size", live, f"{of_shards}, and {data.root} holds features: it needs SHARDS"),
        ("--set decode_threads", live, f"{of_shards}, and {data.root} holds features: it needs SHARDS"),
    )
    if isinstance(data, ShardSet):
        stored = Fact("size", default_size(config.size, data.identity.size), str(data.root))
        config, _ = follow(config, [*trained_of(tokenizer).facts(tokenizer), stored])
        log.info("frames of %s px", config.size)
    else:
        values = data.identity.values
        known = [name for name in ("size", "seed", "crops") if name in values and is_chosen(config, name)]
        here_are = {**values, "size": data.identity.size}
        facts = [Fact(name, here_are[name], str(data.root)) for name in known]
        config = obey(config, [*facts, *view_facts(config, data)])
        check_backbone(config, config.backbone, data)
        config, _ = follow(config, [Fact("size", data.identity.size, str(data.root))])
        here["backbone"] = str(values["backbone"])
    for note in mismatched_checkpoints([("tokenizer", tokenizer)], here, config.size):
        log.warning("%s", note)
    return config


def _views(config: TokenizeConfig, store: FeatureStore) -> Sequence[int]:
    views = parse_views(config.views) if config.views else store.views
    if absent := [view for view in views if view not in store.views]:
        listed = ", ".join(map(str, store.views))
        there = f"views {listed}" if len(store.views) > 1 else f"view {listed} only"
        raise ConfigError(f"--views asks for view {absent[0]}, but {store.root} has {there}")
    return views


def featurize_config(config: TokenizeConfig, shards: ShardSet) -> FeaturizeConfig:
    """Return the settings of the features that tokens of shards are made from."""
    names = (
        *("backbone", "size", "crops", "seed", *SETTINGS, "views", "dtype"),
        *("batch_size", "device", "precision", "compile", "part"),
    )
    values = {name: getattr(config, name) for name in names}
    return FeaturizeConfig(shards=str(shards.root), decode_threads=config.decode_threads, decoder="opencv", **values)
