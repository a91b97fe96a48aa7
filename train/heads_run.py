"""Drives the training of a head: a data set's training split, as shards (labels) and a feature store, to a run.

The run's folder also gets `pytorch_model.bin`, the best head in the published format: the bare state dict, but
with the header where the weights alone do not tell which head it is.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch

from deltactl.artifacts import default_location, read_header, workspace
from deltactl.claims import Claim
from deltactl.configs.follow import Fact, is_set
from deltactl.configs.head import HeadConfig
from deltactl.datasets.known import labelled_set
from deltactl.errors import ArtifactError, ConfigError
from deltactl.featurize.store import FeatureStore
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.tasks.known import task_of
from deltactl.train.checkpoint_files import WEIGHT_FILES
from deltactl.train.checkpoints import load, read
from deltactl.train.draws import seed_of
from deltactl.train.frozen import Frozen
from deltactl.train.headers import with_header
from deltactl.train.heads_data import HeadData
from deltactl.train.heads_module import HeadModule
from deltactl.train.inputs import DataRecord, record_of, warn_if_unfinished
from deltactl.train.kinds import Kind
from deltactl.train.known_kinds import kind_named
from deltactl.train.loop import RunResult, begin, claim_run, fit, is_first_process
from deltactl.train.optimization import OptimiserSettings
from deltactl.train.settle import check_backbone, obey
from deltactl.train.trained import Trained


def train_head(config: HeadConfig) -> RunResult:
    """Train what the settings describe; ConfigError where shards or features of the training split are not there."""
    kind = kind_to_train(config)
    config, shards, store = open_inputs(config)
    for data_there in (shards, store):
        warn_if_unfinished(data_there)
    run = Location.of(config.out or default_location("runs", f"head-{config.dataset}-{store.root.name}"))
    with claim_run(run) as claim:
        return _train(config, kind, shards, store, run, claim)


def kind_to_train(config: HeadConfig) -> Kind[Any]:
    """Return the kind of head that the settings name; ConfigError where it is for another data set, or no head."""
    kind = kind_named(config.head or config.dataset)
    if kind.dataset != config.dataset:
        raise ConfigError(f"head is {kind.name!r}, a {kind.title}; expected a head for {config.dataset}")
    return kind


def _train(
    config: HeadConfig, kind: Kind[Any], shards: ShardSet, store: FeatureStore, run: Location, claim: Claim | None
) -> RunResult:
    data = HeadData(config.dataset, shards, store, config.seed, config.validation_fraction)
    point = begin(config, run, "head")
    torch.manual_seed(seed_of(config.seed, "weights"))
    dataset = labelled_set(config.dataset)
    task = task_of(config.dataset)
    network = kind.build(replace(kind.default, dim=store.dim))
    if config.init is not None and point is None:
        network.load_state_dict(load(config.init, kind).state_dict())
    settings = OptimiserSettings(config.lr, config.weight_decay, config.warmup_steps)
    names = dataset.class_names(_source_of(shards))
    record = record_of(store)
    record = DataRecord(record.identity, {**record.groups, **record_of(shards).groups}, record.generations)
    trained = Trained(config.size, None, config.backbone)
    result = fit(
        HeadModule(task, network, settings, Frozen(), config.seed),
        data,
        config,
        run,
        record,
        point,
        claim=claim,
        trained=trained,
        classes=names,
    )
    if not result.stopped and is_first_process():
        weights = io.BytesIO()
        best = read(run)
        torch.save(with_header(best.state, kind, best.config, best.contents.header), weights)
        (run / WEIGHT_FILES[1]).write_bytes(weights.getvalue())
    return result


def open_inputs(config: HeadConfig) -> tuple[HeadConfig, ShardSet, FeatureStore]:
    """Return settings that follow the data, the shards and their features; ConfigError where they do not fit."""
    shards = _find_shards(config)
    config = obey(config, [Fact("size", shards.identity.integer("size"), str(shards.root))])
    store = _find_store(config, shards)
    check_backbone(config, config.backbone, store)
    return config, shards, store


def _source_of(shards: ShardSet) -> Location | None:
    """Return the root of the data set that shards were cut from, as they remember it."""
    source = read_header(shards.root).provenance.get("source")
    return Location.of(str(source)) if source else None


def _find_shards(config: HeadConfig) -> ShardSet:
    place = config.shards or _default_shards(config)
    try:
        shards = ShardSet.open(place)
    except ArtifactError as error:
        raise ConfigError(
            f"{error}; make the training split first: deltactl ingest --dataset {config.dataset} --split train "
            f"--size {config.size}"
        ) from error
    values = shards.identity.values
    if values.get("dataset") != config.dataset:
        raise ConfigError(f"{shards.root} holds {values.get('dataset')}, the head is for {config.dataset}")
    return shards


def _default_shards(config: HeadConfig) -> Location:
    """Return the workspace's shards of the training split: those of the size that was set, else the only ones."""
    start = f"{config.dataset}-train-"
    there = [name for name in (workspace() / "shards").list() if name.startswith(start)]
    if is_set(config, "size") or not there:
        return default_location("shards", f"{start}{config.size}")
    if len(there) > 1:
        raise ConfigError(
            f"{workspace() / 'shards'} holds {', '.join(there)}; say which: --size PIXELS or --shards DIR"
        )
    return default_location("shards", there[0])


def _find_store(config: HeadConfig, shards: ShardSet) -> FeatureStore:
    """Open the store that is named, or the only one in the workspace that was made from these shards."""
    if config.data is not None:
        return FeatureStore.open(config.data)
    folder, wanted = workspace() / "features", shards.identity.hash()
    found = []
    for name in folder.list():
        try:
            if read_header(folder / name).identity.values.get("shards") == wanted:
                found.append(name)
        except ArtifactError:
            continue  # not an artifact
    if len(found) == 1:
        return FeatureStore.open(folder / found[0])
    if found:
        raise ConfigError(
            f"{folder} holds several features of {shards.root}: {', '.join(found)}; name one: --store DIR"
        )
    raise ConfigError(f"there are no features of {shards.root} in {folder}; run: deltactl featurize {shards.root}")
