"""Drives the training of a tokenizer or a world model: settings in, a run out.

settings → what to read (inputs) → network, frozen networks (modules, frozen) → samples (data) → loop.fit
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import nn

from deltactl.artifacts import default_location
from deltactl.claims import Claim
from deltactl.configs.follow import Fact
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbone import Backbone
from deltactl.featurize.store import ClipStore, FeatureStore, TokenStore
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.registry import LOSSES
from deltactl.train.checkpoints import load, network_hash
from deltactl.train.choices import choose
from deltactl.train.data import DataSettings, TrainingData
from deltactl.train.deltatok import TOKENIZER, DeltaTokConfig
from deltactl.train.deltaworld import WORLD, DeltaWorldConfig
from deltactl.train.dinoworld import DINOWORLD, DinoWorldConfig
from deltactl.train.draws import seed_of
from deltactl.train.frozen import Frozen
from deltactl.train.inputs import DataRecord, open_input, record_of
from deltactl.train.known_kinds import kind_of
from deltactl.train.loop import RunResult, begin, claim_run, fit, is_first_process, uses_gpu
from deltactl.train.losses import Loss
from deltactl.train.modules import DinoWorldModule, TokenizerModule, TrainingModule, WorldModule
from deltactl.train.optimization import OptimiserSettings, set_layer_scales
from deltactl.train.settle import kinds_of, obey, settle
from deltactl.train.trained import Trained, mismatched_checkpoints, steps_of

log = logging.getLogger(__name__)

Settings = TokenizerConfig | WorldConfig
Stage = Literal["tokenizer", "world"]


def train(config: Settings, name: str, extra: Sequence[pl.Callback] = ()) -> RunResult:
    """Train what the settings describe; `name` names the run in the workspace where the settings do not.

    `extra`: Lightning callbacks, such as an evaluation on data sets after each validation.
    """
    data = open_input(config.data, kinds_of(config))
    root = Location.of(config.out) if config.out else default_location("runs", f"{name}-{data.root.name}")
    with claim_run(root) as claim:
        return _train(config, data, root, claim, extra)


def _train(
    config: Settings, data: ClipStore | ShardSet, root: Location, claim: Claim | None, extra: Sequence[pl.Callback]
) -> RunResult:
    _check_frames(data)
    config, notes = settle(config, data, root)
    frozen = load_frozen(config, data)
    if frozen.backbone is not None and isinstance(config, TokenizerConfig):
        config = obey(config, [Fact("network.width", frozen.backbone.dim, f"the backbone {config.backbone}")])
    record = _record(data, frozen)
    if isinstance(config, WorldConfig):
        notes += mismatched_checkpoints([("tokenizer", config.tokenizer)], record.frozen, config.size)
    for note in notes if is_first_process() else ():
        log.warning("%s", note)
    point = begin(config, root, stage_of(config))
    module = build_module(config, data, frozen)
    samples = TrainingData(
        data,
        DataSettings(
            take="pairs" if isinstance(config, TokenizerConfig) else "clips",
            seed=config.seed,
            held_out=config.validation_fraction,
            block_shards=config.block_shards if config.shuffle == "blocks" else None,
            pairs_per_clip=config.pairs_per_clip if isinstance(config, TokenizerConfig) else 1,
            size=config.size,
        ),
        run=str(root),
    )
    if config.init is not None and point is None:
        load_weights(module.network, config.init)
    trained = Trained(config.size, steps_of(data), config.backbone)
    return fit(module, samples, config, root, record, point, extra, claim=claim, trained=trained, notes=notes)


def stage_of(config: Settings) -> Stage:
    """Return the stage that the settings are of."""
    return "tokenizer" if isinstance(config, TokenizerConfig) else "world"


def build_module(config: Settings, data: ClipStore | ShardSet, frozen: Frozen) -> TrainingModule:
    """Return the module with a new network; its weights depend on the seed alone."""
    settings = OptimiserSettings(config.lr, config.weight_decay, config.warmup_steps)
    torch.manual_seed(seed_of(config.seed, "weights"))
    if isinstance(config, TokenizerConfig):
        sizes = config.network.model_dump(exclude={"layer_scale"})
        tokenizer = TOKENIZER.build(DeltaTokConfig(**sizes))
        set_layer_scales(tokenizer, config.network.layer_scale)
        return TokenizerModule(tokenizer, settings, frozen, config.seed, LOSSES.get(config.loss, Loss))
    width, depth = config.network.width, config.network.depth
    dim = _dim(data, frozen)
    if config.network.kind == "dinoworld":
        baseline = DINOWORLD.build(DinoWorldConfig(feature_dim=dim, width=width, depth=depth, heads=width // 64))
        set_layer_scales(baseline, config.network.layer_scale)
        return DinoWorldModule(baseline, settings, frozen, config.seed)
    world = WORLD.build(DeltaWorldConfig(token_dim=dim, width=width, depth=depth, heads=width // 64))
    set_layer_scales(world, config.network.layer_scale)
    search = choose(config, on_gpu=uses_gpu(config)).search
    return WorldModule(world, settings, frozen, config.seed, config.queries, search)


def load_frozen(config: Settings, data: ClipStore | ShardSet) -> Frozen:
    """Return the frozen networks that this data needs in front; ConfigError where a tokenizer is missing."""
    frozen = Frozen(dtype=choose(config, on_gpu=uses_gpu(config)).frozen)
    if isinstance(data, ShardSet):
        frozen.backbone = Backbone.load(config.backbone, "cpu", frozen.dtype)
        frozen.backbone.grid(config.size, config.size)
    elif isinstance(data, FeatureStore):
        frozen.black = data.black
    if isinstance(config, TokenizerConfig) or config.network.kind == "dinoworld":
        return frozen
    if isinstance(data, TokenStore):
        if config.tokenizer is not None and network_hash(load(config.tokenizer, TOKENIZER)) != _tokenizer_of(data):
            raise ConfigError(
                f"{data.root} was made with another tokenizer than {config.tokenizer}; leave --tokenizer out"
            )
        return frozen
    check_tokenizer(data, given=config.tokenizer is not None)
    assert config.tokenizer is not None
    frozen.tokenizer = load(config.tokenizer, TOKENIZER)
    return frozen


def check_tokenizer(data: ClipStore | ShardSet, *, given: bool) -> None:
    """Raise ConfigError where DeltaWorld would train from features or frames without a tokenizer."""
    if not given and not isinstance(data, TokenStore):
        raise ConfigError(f"{data.root} holds {_kind(data)}; a world model needs --tokenizer CKPT there, or tokens")


def load_weights(network: nn.Module, place: str) -> None:
    """Give a network the weights of a checkpoint; CheckpointError where it is another network."""
    kind = kind_of(network)
    loaded = load(place, kind)
    here, there = kind.settings(network.config), kind.settings(loaded.config)
    if here != there:
        differences = [f"{name} {there[name]} there, {here[name]} here" for name in here if here[name] != there[name]]
        raise CheckpointError(f"{place} is another network: {'; '.join(differences)}; set network.* alike")
    network.load_state_dict(loaded.state_dict())


def _check_frames(data: ClipStore | ShardSet) -> None:
    """Refuse clips of single frames."""
    frames = data.identity.integer("frames") if isinstance(data, ShardSet) else data.frames
    if frames < 2:
        raise ConfigError(f"{data.root} holds clips of {frames} frame; training needs 2 at least")


def _record(data: ClipStore | ShardSet, frozen: Frozen) -> DataRecord:
    """Return what the run reads, the frozen networks in the loop included."""
    record = record_of(data)
    values = dict(record.identity.values)
    if frozen.backbone is not None:
        values["live_backbone"] = frozen.backbone.content_hash
    if frozen.tokenizer is not None:
        values["frozen_tokenizer"] = network_hash(frozen.tokenizer)
    return DataRecord(type(record.identity)(record.identity.kind, values), record.groups, record.generations)


def _dim(data: ClipStore | ShardSet, frozen: Frozen) -> int:
    if isinstance(data, ShardSet):
        assert frozen.backbone is not None
        return frozen.backbone.dim
    return data.dim


def _tokenizer_of(tokens: TokenStore) -> str:
    return tokens.identity.text("tokenizer")


def _kind(data: ClipStore | ShardSet) -> str:
    return "frames" if isinstance(data, ShardSet) else data.kind
