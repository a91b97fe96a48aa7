"""What a head trains from: the shards of a data set's training split (labels) and their feature store.

Takes settings; returns both, opened, and settings that follow them. What is not named is looked for in the workspace.
"""

from __future__ import annotations

from deltactl.artifacts import default_location, read_header, workspace
from deltactl.configs.follow import Fact, is_set
from deltactl.configs.head import HeadConfig
from deltactl.datasets.known import labelled_set, read_again
from deltactl.errors import ArtifactError, ConfigError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.train.data.inputs import warn_if_unfinished
from deltactl.train.settle import check_backbone, obey


def open_head_inputs(config: HeadConfig) -> tuple[HeadConfig, ShardSet, FeatureStore]:
    """Return settings that follow the data, the shards and their features.

    Raises:
        ConfigError: shards or features of the training split are not there, or do not fit the settings.
    """
    read_again(config.dataset)
    shards = _find_shards(config)
    config = obey(config, [Fact("size", shards.identity.size, str(shards.root))])
    store = _find_store(config, shards)
    check_backbone(config, store)
    for data in (shards, store):
        warn_if_unfinished(data)
    return config, shards, store


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
    dataset = labelled_set(config.dataset)
    if values.get("dataset") != dataset.said_as:
        raise ConfigError(f"{shards.root} holds {values.get('dataset')}, the head is for {dataset.said_as}")
    if any(values.get(key) != value for key, value in dataset.identity.items()):
        raise ConfigError(f"{config.dataset} was changed since {shards.root} was made of it; make the shards again")
    return shards


def _default_shards(config: HeadConfig) -> Location:
    """Return the workspace's shards of the training split: those of the size that was set, else the only ones."""
    start = f"{labelled_set(config.dataset).name}-train-"
    there = [name for name in (workspace() / "shards").list() if name.startswith(start)]
    wanted = [name for name in there if name.endswith(f"-{config.size}")] if is_set(config, "size") else there
    if not wanted:
        return default_location("shards", f"{start}{config.size}")
    if len(wanted) > 1:
        ways = "--shards DIR" if is_set(config, "size") else "--size SIZE or --shards DIR"
        raise ConfigError(f"{workspace() / 'shards'} holds {', '.join(wanted)}; say which: {ways}")
    return default_location("shards", wanted[0])


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
