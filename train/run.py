"""Trains a network: settings in, a run out. The tokenizer, the world models and the heads take the same path.

    open_data      opens what is read: features, tokens or shards, of one set or several (`sets`, `heads_inputs`,
                   `rgb_inputs`)
    claim_run      claims the run's folder (`start`)
    settle_sets    fits the settings to the data and the checkpoints at hand (`settle`)
    load_frozen    loads the frozen networks in front (`frozen`)
    begin          finds the checkpoint to go on from, and writes `config.yaml` (`start`)
    build_module   makes the network that trains, and the module that computes a step (`modules`)
    fit            trains (`loop`)

A head's folder also gets `pytorch_model.bin`, the best head in the published format.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import nn

from deltactl.artifacts import default_location, read_header
from deltactl.configs.follow import Fact, is_set, with_setting
from deltactl.configs.head import HeadConfig, HeadTrainingConfig
from deltactl.configs.rgb import RGBConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.datasets.known import labelled_set
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.plan import steps_in_clips
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.views import Augmentation
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.registry import LOSSES
from deltactl.tasks.known import task_of
from deltactl.train.checkpoints.files import WEIGHT_FILES
from deltactl.train.checkpoints.headers import with_header
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.checkpoints.trained import Steps, Trained, mismatched_checkpoints, steps_of
from deltactl.train.data.draws import seed_of
from deltactl.train.data.heads_data import HeadData
from deltactl.train.data.heads_inputs import open_head_inputs
from deltactl.train.data.inputs import DataRecord, frames_of, record_of
from deltactl.train.data.left_out import LeftOut
from deltactl.train.data.module import TrainingData
from deltactl.train.data.records import RunRecord, SetRecord
from deltactl.train.data.rgb_data import RGBData
from deltactl.train.data.rgb_inputs import normalisations, open_rgb_inputs
from deltactl.train.data.set_samples import DataSettings
from deltactl.train.data.sets import TrainingSet, named_sets, open_sets, run_name
from deltactl.train.loop import RunResult, Setup, fit
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTokConfig, check_fewer_tokens
from deltactl.train.networks.deltaworld import WORLD, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DINOWORLD, DinoWorldConfig
from deltactl.train.networks.kinds import Kind
from deltactl.train.networks.known_kinds import head_of, kind_named, kind_of
from deltactl.train.networks.losses import Loss
from deltactl.train.networks.rgb_head import RGB, RGBHeadConfig
from deltactl.train.processes import is_first_process, uses_gpu
from deltactl.train.settle import kinds_of, obey, settle, settle_sets, tokens_text
from deltactl.train.start import begin, claim_run
from deltactl.train.steps.choices import Choices, choose
from deltactl.train.steps.frozen import Frozen
from deltactl.train.steps.modules import (
    DinoWorldModule,
    HeadModule,
    RGBModule,
    TokenizerModule,
    TrainingModule,
    WorldModule,
)
from deltactl.train.steps.optimization import OptimizerConfig, set_layer_scales

log = logging.getLogger(__name__)

Settings = TokenizerConfig | WorldConfig | HeadConfig | RGBConfig
Stage = Literal["tokenizer", "world", "head", "rgb"]


def train(config: Settings, name: str, extra: Sequence[pl.Callback] = ()) -> RunResult:
    """Train what the settings describe; `name` names the run in the workspace where the settings do not.

    `extra`: Lightning callbacks, such as an evaluation on data sets after each validation.

    Raises:
        ArtifactError: the data, or the run's folder, are not what they should be.
        CheckpointError: a checkpoint that is named is not there, or does not fit.
        ClaimedError: another training writes to the run.
        ConfigError: the settings do not fit the data, the checkpoints or this machine.
        TrainingError: the loss is not finite, memory ran out, or a process was lost.
    """
    config, sets, labels = open_data(config)
    run = Location.of(config.out) if config.out else default_location("runs", f"{name}-{run_name(sets)}")
    with claim_run(run) as claim:
        setup, frozen = set_up(config, sets, labels, run)
        for note in setup.notes if is_first_process() else ():
            log.warning("%s", note)
        point = begin(setup.config, run, stage_of(config))
        module = build_module(setup.config, setup.choices, frozen, sets[0].data)
        if config.init is not None and point is None:
            load_weights(module.network, config.init)
        result = fit(module, setup, run, point, extra, claim)
        if isinstance(config, HeadTrainingConfig) and not result.stopped and is_first_process():
            write_best_head(run)
        return result


def open_data(config: Settings) -> tuple[Settings, tuple[TrainingSet, ...], ShardSet | None]:
    """Return the settings, the sets that are read, and for a head the shards that hold its labels or frames.

    Raises what `train` does.
    """
    if isinstance(config, RGBConfig):
        shards, store = open_rgb_inputs(config)
        return config, (TrainingSet(store, name=store.root.name),), shards
    if not isinstance(config, HeadConfig):
        if (named := named_sets(config.data)) != config.data:
            config = with_setting(config, "data", named)
        return config, open_sets(named, kinds_of(config)), None
    head_kind(config)
    config, shards, store = open_head_inputs(config)
    return config, (TrainingSet(store, name=store.root.name),), shards


def set_up(
    config: Settings, sets: Sequence[TrainingSet], labels: ShardSet | None, run: Location
) -> tuple[Setup, Frozen]:
    """Return what a run trains on and how, and the frozen networks in front; raises what `train` does."""
    data = sets[0].data
    if isinstance(config, HeadTrainingConfig):
        assert labels is not None
        assert isinstance(data, FeatureStore)
        if isinstance(config, HeadConfig):
            return _set_up_head(config, data, labels), Frozen()
        return _set_up_rgb(config, data, labels, run)
    for each in sets:
        _check_frames(each.data)
    config, notes = settle_sets(config, sets, run)
    choices = choose(config, on_gpu=uses_gpu(config.trainer))
    assert isinstance(config, TokenizerConfig | WorldConfig)
    # The sets have alike what the network, and those in front of it, depend on: the first stands for all.
    frozen = load_frozen(config, data, choices.frozen)
    frames_per_step = 1 if frozen.backbone is None else frozen.backbone.frames_per_step
    for each in sets:
        if frozen.backbone is not None and isinstance(each.data, ShardSet):
            _check_steps(each.data, config.backbone, frozen.backbone)
    if frozen.backbone is not None and isinstance(config, TokenizerConfig):
        _check_start(config, frozen.backbone)
        config = obey(config, [Fact("network.width", frozen.backbone.dim, f"the backbone {config.backbone}")])
    if isinstance(config, TokenizerConfig):
        reads_from = frozen.backbone or data
        assert isinstance(reads_from, Backbone | FeatureStore)
        grid = reads_from.grid if isinstance(reads_from, FeatureStore) else reads_from.grid(*config.size.pair)
        check_fewer_tokens(config.network.tokens_per_frame, config.size, grid)
    left_out = LeftOut.read(config.where)
    left_out.check(config.where, [each.data for each in sets])
    record = RunRecord(
        tuple(SetRecord(each.name, each.share, _record(each.data, frozen, Augmentation.of(config))) for each in sets),
        left_out.digest,
    )
    if isinstance(config, WorldConfig):
        notes += mismatched_checkpoints([("tokenizer", config.tokenizer)], record.frozen, config.size)
    samples = TrainingData(
        sets,
        DataSettings(
            take="pairs" if isinstance(config, TokenizerConfig) else "clips",
            seed=config.seed,
            held_out=config.validation_fraction,
            block_shards=config.block_shards if config.shuffle == "blocks" else None,
            pairs_per_clip=config.pairs_per_clip if isinstance(config, TokenizerConfig) else 1,
            size=config.size,
            augmentation=Augmentation.of(config),
            frames_per_step=frames_per_step,
            left_out=left_out.keys,
        ),
        run=str(run),
    )
    steps = Steps.over([steps_of(each.data, frames_per_step) for each in sets], [float(each.share) for each in sets])
    return Setup(config, choices, samples, record, Trained(config.size, steps, config.backbone), notes), frozen


def _set_up_head(config: HeadConfig, store: FeatureStore, shards: ShardSet) -> Setup:
    source = read_header(shards.root).provenance.get("source")  # the root of the data set, which may name its classes
    return Setup(
        config,
        choose(config, on_gpu=uses_gpu(config.trainer)),
        HeadData(config.dataset, shards, store, config.seed, config.validation_fraction),
        RunRecord.alone(_record_of_both(store, shards)),
        Trained(config.size, None, config.backbone),
        classes=labelled_set(config.dataset).class_names(Location.of(str(source)) if source else None),
    )


def _set_up_rgb(config: RGBConfig, store: FeatureStore, shards: ShardSet, run: Location) -> tuple[Setup, Frozen]:
    config, notes = settle(config, store, run)
    left_out = LeftOut.read(config.where)
    left_out.check(config.where, [store])
    samples = RGBData(
        shards,
        store,
        config.seed,
        config.validation_fraction,
        block_shards=config.block_shards if config.shuffle == "blocks" else None,
        left_out=left_out.keys,
    )
    setup = Setup(
        config,
        choose(config, on_gpu=uses_gpu(config.trainer)),
        samples,
        replace(RunRecord.alone(_record_of_both(store, shards)), left_out=left_out.digest),
        Trained(config.size, None, config.backbone),
        notes,
    )
    return setup, Frozen(undone=normalisations(config, store))


def _record_of_both(store: FeatureStore, shards: ShardSet) -> DataRecord:
    """Return what a run remembers of features and of the shards under them."""
    record = record_of(store)
    return DataRecord(record.identity, {**record.groups, **record_of(shards).groups}, record.generations)


def stage_of(config: Settings) -> Stage:
    """Return the stage that the settings are of."""
    if isinstance(config, HeadTrainingConfig):
        return "head" if isinstance(config, HeadConfig) else "rgb"
    return "tokenizer" if isinstance(config, TokenizerConfig) else "world"


def head_kind(config: HeadConfig) -> Kind[Any]:
    """Return the kind of head that the settings name.

    Raises:
        ConfigError: it is for another data set, or no head.
    """
    kind = kind_named(config.head) if config.head else head_of(config.dataset)
    dataset = labelled_set(config.dataset)
    if kind.dataset != dataset.said_as:
        raise ConfigError(f"head is {kind.name!r}, a {kind.title}; expected a head for {dataset.name}")
    return kind


def build_module(
    config: TrainingConfig, choices: Choices, frozen: Frozen, data: ClipStore | ShardSet
) -> TrainingModule:
    """Return the module with a new network; its weights depend on the seed alone."""
    settings = OptimizerConfig(
        config.lr, config.weight_decay, config.warmup_steps, config.cooldown_steps, config.steps, choices.fused
    )
    reads_from = frozen.backbone if isinstance(data, ShardSet) else data
    assert reads_from is not None
    dim = reads_from.dim
    torch.manual_seed(seed_of(config.seed, "weights"))
    if isinstance(config, HeadConfig):
        kind = head_kind(config)
        head = kind.build(replace(kind.default, dim=dim))
        return HeadModule(head, settings, frozen, config.seed, task_of(config.dataset))
    if isinstance(config, RGBConfig):
        assert isinstance(data, FeatureStore)
        patch = data.identity.size.height // data.grid[0]
        picture = RGB.build(RGBHeadConfig(dim=dim, patch_size=patch, **config.network.model_dump()))
        return RGBModule(picture, settings, frozen, config.seed)
    if isinstance(config, TokenizerConfig):
        sizes = config.network.model_dump(exclude={"layer_scale"})
        tokenizer = TOKENIZER.build(DeltaTokConfig(**sizes))
        set_layer_scales(tokenizer, config.network.layer_scale)
        return TokenizerModule(tokenizer, settings, frozen, config.seed, LOSSES.get(config.loss, Loss))
    assert isinstance(config, WorldConfig)
    width, depth = config.network.width, config.network.depth
    if config.network.kind == "dinoworld":
        baseline = DINOWORLD.build(DinoWorldConfig(feature_dim=dim, width=width, depth=depth, heads=width // 64))
        set_layer_scales(baseline, config.network.layer_scale)
        return DinoWorldModule(baseline, settings, frozen, config.seed)
    count, token_dim = _tokens_of(data, frozen)
    world = WORLD.build(DeltaWorldConfig(token_dim, width, depth, width // 64, count))
    set_layer_scales(world, config.network.layer_scale)
    return WorldModule(world, settings, frozen, config.seed, config.queries, choices.search)


def _tokens_of(data: ClipStore | ShardSet, frozen: Frozen) -> tuple[int, int]:
    """Return how many tokens a frame has, and their width: those of the store, or of the tokenizer in the loop."""
    if isinstance(data, TokenStore):
        return data.tokens_per_frame, data.dim
    assert frozen.tokenizer is not None, "features and frames need one"
    return frozen.tokenizer.config.tokens_per_frame, frozen.tokenizer.config.token_width


def load_frozen(config: TokenizerConfig | WorldConfig, data: ClipStore | ShardSet, dtype: torch.dtype) -> Frozen:
    """Return the frozen networks that this data needs in front; `dtype` is that of their products.

    Raises:
        ConfigError: a tokenizer is missing, or is not the one that made the tokens.
    """
    frozen = Frozen(dtype=dtype)
    if isinstance(data, ShardSet):
        frozen.backbone = Backbone.load(config.backbone, "cpu", frozen.dtype)
        frozen.backbone.grid(*config.size.pair)
    elif isinstance(data, FeatureStore):
        frozen.black = data.black
    if isinstance(config, TokenizerConfig) or config.network.kind == "dinoworld":
        return frozen
    if isinstance(data, TokenStore):
        if config.tokenizer is not None:
            _check_made_by(data, config.tokenizer)
        return frozen
    check_tokenizer(data, given=config.tokenizer is not None)
    assert config.tokenizer is not None
    frozen.tokenizer = load(config.tokenizer, TOKENIZER)
    reads_from = frozen.backbone if isinstance(data, ShardSet) else data
    assert reads_from is not None
    if (width := frozen.tokenizer.config.width) != reads_from.dim:
        raise ConfigError(
            f"the features of {config.backbone if frozen.backbone else data.root} are {reads_from.dim} wide, but "
            f"--tokenizer {config.tokenizer} was made for {width}; name the tokenizer that was trained on them"
        )
    return frozen


def _check_made_by(tokens: TokenStore, place: str) -> None:
    """Check that tokens were made by a tokenizer.

    Raises:
        ConfigError: it makes others.
    """
    tokenizer = load(place, TOKENIZER)
    here, there = (tokens.tokens_per_frame, tokens.dim), tokenizer.config
    if (makes := (there.tokens_per_frame, there.token_width)) != here:
        raise ConfigError(
            f"{tokens.root} has {tokens_text(*here)}, but --tokenizer {place} makes {tokens_text(*makes)}; leave "
            "--tokenizer out"
        )
    if network_hash(tokenizer) != tokens.identity.text("tokenizer"):
        raise ConfigError(f"{tokens.root} was made with another tokenizer than {place}; leave --tokenizer out")


def check_tokenizer(data: ClipStore | ShardSet, *, given: bool) -> None:
    """Check that DeltaWorld has the tokenizer that features and frames need.

    Raises:
        ConfigError: it has none.
    """
    if not given and not isinstance(data, TokenStore):
        kind = "frames" if isinstance(data, ShardSet) else data.kind
        raise ConfigError(f"{data.root} holds {kind}; a world model needs --tokenizer CKPT there, or tokens")


def load_weights(network: nn.Module, place: str) -> None:
    """Give a network the weights of a checkpoint.

    Raises:
        CheckpointError: it holds another network.
    """
    kind = kind_of(network)
    loaded = load(place, kind)
    here, there = kind.settings(network.config), kind.settings(loaded.config)
    if here != there:
        differences = [f"{name} {there[name]} there, {here[name]} here" for name in here if here[name] != there[name]]
        raise CheckpointError(
            f"{place} is another network: {'; '.join(differences)}; set network.* alike, or name one that "
            "was trained on such features"
        )
    network.load_state_dict(loaded.state_dict())


def _check_start(config: TokenizerConfig, backbone: Backbone) -> None:
    """Refuse a tokenizer to start from, or to go on with, that was made for features of another width."""
    place = config.init or (None if config.resume == "auto" else config.resume)
    if place is not None and is_set(config, "network.width") and config.network.width != backbone.dim:
        raise ConfigError(
            f"{place} is for features of width {config.network.width}, but the backbone {config.backbone} makes "
            f"features of width {backbone.dim}; name those that belong together"
        )


def _check_steps(data: ShardSet, name: str, backbone: Backbone) -> None:
    """Refuse clips of no whole steps of a backbone, and those of a single one."""
    if steps_in_clips(data, name, backbone.frames_per_step) < 2:
        raise ConfigError(
            f"{data.root} holds clips of {data.identity.integer('frames')} frames, and backbone {name} makes one step "
            f"from {backbone.frames_per_step}; training needs 2 steps at least: run ingest with --frames "
            f"{2 * backbone.frames_per_step} or more"
        )


def _check_frames(data: ClipStore | ShardSet) -> None:
    """Refuse clips of single frames."""
    if (frames := frames_of(data)) < 2:
        raise ConfigError(f"{data.root} holds clips of {frames} frame; training needs 2 at least")


def _record(data: ClipStore | ShardSet, frozen: Frozen, augmentation: Augmentation) -> DataRecord:
    """Return what the run reads, the frozen networks in the loop and what crops are drawn from included."""
    record = record_of(data)
    values = dict(record.identity.values)
    if frozen.backbone is not None:
        values["live_backbone"] = frozen.backbone.content_hash
        values.update(augmentation.identity)
    if frozen.tokenizer is not None:
        values["frozen_tokenizer"] = network_hash(frozen.tokenizer)
    return DataRecord(type(record.identity)(record.identity.kind, values), record.groups, record.generations)


def write_best_head(run: Location) -> None:
    """Write the best head of a run in the published format: the bare state dict.

    It has our header where the weights alone do not tell which head it is.
    """
    best, weights = read(run), io.BytesIO()
    torch.save(with_header(best.state, best.kind, best.config, best.contents.header), weights)
    (run / WEIGHT_FILES[1]).write_bytes(weights.getvalue())
