"""What a tokenize will do: which token store, whose identity, which groups are left.

Tokens are the same thing whichever way they were made, so a store made from features and one made straight from shards
have the same identity: that of the features (made or not), and the tokenizer's weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import UNWRITTEN, Identity, default_location, part_of, written
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.follow import Fact, default_size, follow, is_chosen, refuse_unused
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.known import read_facts
from deltactl.featurize.origins import (
    Found,
    Origin,
    are_videos,
    origin_of,
    refuse_clip_settings,
    videos_of,
)
from deltactl.featurize.plan import Plan, StorePlan, follow_size, jobs_left, plan_of, store_location
from deltactl.featurize.store.finish import layout_of
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.featurize.views import SETTINGS, parse_views
from deltactl.ingest.record import VIDEOS
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
    """How the features of shards, or videos, would be made; None for a store."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where what they are made from is."""
        live = {} if self.features is None else self.features.origin.provenance
        return live if VIDEOS in live else {"data": str(self.data.root)}

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

        straight = "" if self.features is None else f"{counted(len(self.features.units), self.features.origin.title)}"
        way = f"{straight}, backbone and tokenizer in one pass" if straight else "from features"
        return [
            f"{self.data.root}: {way}",
            f"{self.root}: {counted(self.clips, 'crops')} to do, {self.clips_there:,} there already",
            f"writes {format_bytes(self.bytes)} ({format_bytes(self.crop_bytes)} a crop: a clip under one view)",
            *self.carries(),
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
    if are_videos(config.places, config.videos):
        found: Found | ClipStore = videos_of(config.places, config)
    else:
        found = open_input(config.places[0] if config.places else None, ("features", "shards"))
        refuse_clip_settings(config.videos, f"{found.root} holds {found.identity.kind}")
    config = _following(config, place, found)
    tokenizer = load(place, TOKENIZER)
    features: Plan | None = None
    if isinstance(found, ClipStore):
        assert isinstance(found, FeatureStore)
        root = _output(config, found.root)
        made_from: Plan | FeatureStore = found
        data: Origin | FeatureStore = found
        frames, dim = found.frames, found.dim
        groups = [(view, unit) for view in _views(config, found) for unit in found.units_of(view)]
    else:
        as_features = follow_size(featurize_config(config, found), found)
        in_place = store_location(as_features, found)
        root = _output(config, in_place)
        data = origin_of(found, root)
        made_from = features = plan_of(as_features, data, in_place)
        frames, dim = features.layout.frames, features.layout.frame_shape[1]
        groups = data.in_order([(view, unit) for view in features.views for unit in data.units])
    if tokenizer.config.width != dim:
        raise ConfigError(
            f"the features of {found.root if isinstance(found, ClipStore) else config.backbone} are {dim} wide, but "
            f"the tokenizer was made for {tokenizer.config.width}; name the tokenizer that was trained on them"
        )
    part = set(part_of(made_from.units, config.part))
    groups = [group for group in groups if group[1] in part]
    shape = (tokenizer.config.tokens_per_frame, tokenizer.config.token_width)
    jobs = jobs_left(root, data, groups)
    clips = sum(data.clips_in(job.unit) for job in jobs)
    return TokenPlan(
        data=data,
        root=root,
        identity=Identity(
            "tokens",
            _identity_values(made_from.identity, network_hash(tokenizer), config),
            names={**made_from.identity.names, "tokenizer": place},
        ),
        layout=layout_of(root, Layout("tokens", frames, shape, config.dtype, carried=made_from.layout.carried)),
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


def _output(config: TokenizeConfig, features: Location) -> Location:
    """Return where the tokens go of features that are, or would be, at a place."""
    return Location.of(config.out or default_location("tokens", features.name))


def _following(config: TokenizeConfig, tokenizer: str, data: ClipStore | Found) -> TokenizeConfig:
    """Return the settings that follow the features, else the tokenizer's training, where they were not set.

    What the tokenizer was trained on and does not get is said.

    Raises:
        ConfigError: one contradicts the features that are there.
    """
    here: dict[str, str | None] = {}
    if not isinstance(data, ClipStore):
        facts = trained_of(tokenizer).facts(tokenizer)
        if isinstance(data, ShardSet):
            facts = [*facts, Fact("size", default_size(config.size, data.identity.size), str(data.root))]
        config, _ = follow(config, facts)
        log.info("frames of %s px", config.size)
        here["backbone"] = read_facts(config.backbone).content_hash
    else:
        needs = f"is about the backbone's pass over shards, and {data.root} holds features: it needs SHARDS"
        refuse_unused(config, ("--batch-size", False, needs), ("--set decode_threads", False, needs))
        values = data.identity.values
        known = [name for name in ("size", "seed", "crops") if name in values and is_chosen(config, name)]
        here_are = {**values, "size": data.identity.size}
        facts = [Fact(name, here_are[name], str(data.root)) for name in known]
        config = obey(config, [*facts, *view_facts(config, data)])
        check_backbone(config, data)
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


def featurize_config(config: TokenizeConfig, found: Found) -> FeaturizeConfig:
    """Return the settings of the features that tokens of shards, or videos, are made from."""
    names = (
        *("backbone", "size", "crops", "seed", *SETTINGS, "views", "dtype"),
        *("batch_size", "device", "precision", "compile", "part", "videos"),
    )
    values = {name: getattr(config, name) for name in names}
    shards = str(found.root) if isinstance(found, ShardSet) else config.data
    return FeaturizeConfig(shards=shards, decode_threads=config.decode_threads, decoder="opencv", **values)
