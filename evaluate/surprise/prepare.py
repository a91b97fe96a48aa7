"""What surprise is measured with: settings that suit the source, and networks that fit it and each other.

Everything that does not fit is found here, before any long work begins; the message names the option.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from deltactl.artifacts import hash_told
from deltactl.configs.follow import Fact, default_size, follow, is_set, refuse_unused, with_setting
from deltactl.configs.surprise import SurpriseConfig
from deltactl.configs.values import variables
from deltactl.devices import device_of, dtype_of
from deltactl.errors import ArtifactError, CheckpointError, ConfigError
from deltactl.evaluate.protocol.networks import check_tokens, check_width, naming
from deltactl.evaluate.surprise.measure import Sampler
from deltactl.evaluate.surprise.pairs import Pair, check_inside, check_names, videos_of
from deltactl.evaluate.surprise.sources import SourceKind, check_length, open_store, videos_of_clips
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import Say
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.checkpoints.trained import as_trained, trained_of
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a run works with."""

    config: SurpriseConfig
    kind: SourceKind
    sampler: Sampler
    backbone: Backbone | None
    tokenizer: DeltaTok | None
    data: ShardSet | ClipStore | None
    pairs: list[Pair] | None
    hashes: Mapping[str, str]

    @property
    def autocast(self) -> torch.autocast:
        """What the networks compute under, in the precision that was asked for."""
        device = self.sampler.device
        half = dtype_of(self.config.precision, device) == torch.bfloat16
        return torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False)


def check_uses(config: SurpriseConfig, kind: SourceKind) -> None:
    """Raise ConfigError for a setting that does nothing for such a source, or one that it needs."""
    pixels, videos = kind in ("video", "videos", "shards"), kind in ("video", "videos")
    # One that the environment names is there for other commands.
    of_environment = "backbone" in variables(SurpriseConfig, {})
    refuse_unused(
        config,
        ("--backbone", pixels or of_environment, f"goes with videos and shards, and {config.source} holds {kind}"),
        ("--size", pixels, f"goes with videos and shards, and {config.source} holds {kind}"),
        *((f"--{name}", videos, "goes with videos") for name in ("fps", "stride", "start", "end", "crop")),
        ("--limit", not videos, "goes with clips"),
    )
    if kind != "tokens" and config.tokenizer is None:
        raise ConfigError(f"--tokenizer is missing: {config.source} is {_called(kind)}, whose tokens have to be made")


def _called(kind: SourceKind) -> str:
    return {"video": "a video", "videos": "a folder of videos", "features": "a store of features"}.get(kind, kind)


def follow_training(config: SurpriseConfig, kind: SourceKind, place: Location, say: Say) -> SurpriseConfig:
    """Return the settings with the size, the backbone and the stride of the networks' training, where not set.

    Where no network says at which size it was trained, shards are taken at theirs.
    """
    networks: list[tuple[str, str | None]] = [("world", config.world), ("tokenizer", config.tokenizer)]
    if kind == "shards" and all(trained_of(each).size is None for _, each in networks if each):
        identity = ShardSet.open(place).identity
        if "size" in identity.values:
            config, _ = follow(config, [Fact("size", default_size(config.size, identity.size), str(place))])
    config, steps = as_trained(config, networks, say)
    if kind == "shards" or steps is None:
        return config
    seen = steps.nearest(config.stride)
    if seen == config.stride:
        return config
    if not is_set(config, "stride"):
        say(f"frames {seen:g} s apart: the networks were trained on {steps.least:g} to {steps.most:g} s")
        return with_setting(config, "stride", seen)
    log.warning(
        "--stride is %g s, but --world %s was trained on frames %g to %g s apart; its samples mean little",
        *(config.stride, config.world, steps.least, steps.most),
    )
    return config


def prepare(config: SurpriseConfig, kind: SourceKind, place: Location, pairs: list[Pair] | None) -> Work:
    """Open what is there, load the networks, and check that all of it fits."""
    device = device_of(config.device)
    data: ShardSet | ClipStore | None = None
    backbone: Backbone | None = None
    hashes: dict[str, str] = {}
    least = config.context + config.horizon
    if kind == "shards":
        data = ShardSet.open(place)
    elif kind in ("features", "tokens"):
        data = open_store(kind, place)
        check_length(data.frames, least, config)
        hashes = {
            name: data.identity.values[name] for name in ("backbone", "tokenizer") if name in data.identity.values
        }
        if not len(data):
            raise ArtifactError(f"{place} has no clip that can be read")
    if kind in ("video", "videos", "shards"):
        backbone = Backbone.load(config.backbone, device, dtype_of(config.precision, device))
        backbone.grid(*config.size.pair)
        hashes["backbone"] = backbone.content_hash
        if isinstance(data, ShardSet):
            check_length(data.identity.integer("frames") // backbone.frames_per_step, least, config)
    tokenizer = _tokenizer(config, kind, backbone, data, hashes, device)
    with naming("world"):
        world = load(config.world, WORLD)
    _check_world(config, world, tokenizer, data)
    hashes["world"] = network_hash(world)
    if pairs is not None:
        listing = Location.of(str(config.pairs))
        if data is None:
            check_inside(pairs, listing)
            there = [name for name in videos_of(pairs) if (place.path / name).exists()]
        else:
            there = list(videos_of_clips(data))
        check_names(pairs, there, listing, place)
    sampler = Sampler(world.to(device), config.context, config.horizon, config.samples, config.seed, device)
    return Work(config, kind, sampler, backbone, tokenizer, data, pairs, hashes)


def _tokenizer(
    config: SurpriseConfig,
    kind: SourceKind,
    backbone: Backbone | None,
    data: ShardSet | ClipStore | None,
    hashes: dict[str, str],
    device: torch.device,
) -> DeltaTok | None:
    """Return the tokenizer on the device; of tokens only its hash is compared with theirs."""
    if config.tokenizer is None:
        return None
    with naming("tokenizer"):
        tokenizer = load(config.tokenizer, TOKENIZER)
    found = network_hash(tokenizer)
    if kind == "tokens":
        if hashes.get("tokenizer") not in (None, found):
            raise CheckpointError(
                f"--tokenizer {config.tokenizer} (content hash {hash_told(found)}) did not make the tokens of "
                f"{config.source} ({hash_told(hashes['tokenizer'])}); name the one that did, or leave it out"
            )
        return None
    hashes["tokenizer"] = found
    if backbone is not None:
        what = f"the backbone {config.backbone} makes features of width {backbone.dim}"
        check_width("tokenizer", config.tokenizer, tokenizer.config.width, backbone.dim, what)
    else:
        assert isinstance(data, FeatureStore)
        what = f"{config.source} has features of width {data.dim}"
        check_width("tokenizer", config.tokenizer, tokenizer.config.width, data.dim, what)
    return tokenizer.to(device)


def _check_world(
    config: SurpriseConfig, world: DeltaWorld, tokenizer: DeltaTok | None, data: ShardSet | ClipStore | None
) -> None:
    if tokenizer is not None:
        check_tokens(config.world, world.config, config.tokenizer, tokenizer.config)
        return
    assert data is not None
    assert not isinstance(data, ShardSet)
    found, wanted = data.frame_shape, (world.config.tokens_per_frame, world.config.token_dim)
    if found != wanted:
        raise CheckpointError(
            f"--world {config.world} is for {wanted[0]} tokens of width {wanted[1]} a frame, but {config.source} has "
            f"{found[0]} of width {found[1]}; name the one that belongs to them"
        )
