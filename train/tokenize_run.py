"""Drives a tokenize: features, or shards, and a tokenizer in, groups of tokens out.

As featurize, with other ends (see `featurize.filling`): from a feature store its clips are read ahead while others are
encoded (`tokenize_store`); from shards the pipeline of featurize runs, with the tokenizer where features would be
written (`encoder.TokenEnd`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from deltactl.artifacts import Identity, make_provenance
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.devices import dtype_of, use_device
from deltactl.featurize.filling import GroupMaker, JobRunner, check_space, fill_store, find_workers, threads_of_worker
from deltactl.featurize.loading import load_computer
from deltactl.featurize.pipeline import LIBRARIES, Pipeline, Settings
from deltactl.featurize.state import state_there
from deltactl.featurize.store import FeatureStore
from deltactl.featurize.views import Crops
from deltactl.generations import check_fits
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location
from deltactl.progress import Summary
from deltactl.train.checkpoints import load
from deltactl.train.deltatok import TOKENIZER
from deltactl.train.encoder import Encoder, TokenEnd
from deltactl.train.tokenize_plan import featurize_config, plan
from deltactl.train.tokenize_store import StoreTokens


def run(config: TokenizeConfig) -> Summary:
    """Make the tokens that the settings ask for, and return what was done.

    Raises as `plan` and `featurize.filling.fill_store`.
    """
    summary = Summary(unit="crops")
    planned = plan(config)
    config, devices, workers = find_workers(planned.config)
    provenance = make_provenance(
        LIBRARIES,
        tokenizer=config.tokenizer,
        backbone=planned.backbone,
        data=str(planned.data.root),
        device=devices[0],
    )
    load: Callable[[str], JobRunner]
    if planned.features is None:
        load = partial(_load_for_store, config, planned.tokenizer, planned.data.root, planned.root, planned.identity)
    else:
        crops, shards = planned.features.crops, planned.features.shards
        load = partial(_load_for_shards, config, planned.tokenizer, shards, planned.root, planned.identity, crops)
    maker = GroupMaker(load, devices, threads_of_worker(config, workers))
    return fill_store("tokenize", config, planned, maker, workers, provenance, black=None, summary=summary)


def dry_run(config: TokenizeConfig) -> Iterator[str]:
    """Yield what a tokenize would do; raises at the end what would stop it at once, such as a disk without room."""
    planned = plan(config)
    check_fits(planned.root, planned.identity, planned.generations)
    yield from planned.lines()
    if (state := state_there(planned.root)) is not None:
        yield state
    check_space(planned)


def _load_for_store(
    config: TokenizeConfig, tokenizer: str, data: Location, root: Location, identity: Identity, device: str
) -> StoreTokens:
    place, store = use_device(device), FeatureStore.open(data)
    dtype = dtype_of(config.precision, place)
    encoder = Encoder(load(tokenizer, TOKENIZER), store.black, store.grid, place, dtype, config.compile)
    return StoreTokens(store, root, identity, encoder)


def _load_for_shards(
    config: TokenizeConfig,
    tokenizer: str,
    shards: ShardSet,
    root: Location,
    identity: Identity,
    crops: Crops,
    device: str,
) -> Pipeline:
    """Return the pipeline of featurize with a tokenizer at its end; patch features are never written."""
    computer = load_computer(featurize_config(config, shards), device)
    black = computer.backbone.black_features(config.size, config.size)
    dtype, frames = dtype_of(config.precision, computer.device), shards.identity.integer("frames")
    encoder = Encoder(load(tokenizer, TOKENIZER), black, computer.grid, computer.device, dtype, config.compile)
    settings = Settings(crops, config.seed, frames, identity, config.decode_threads)
    return Pipeline(shards, root, computer, settings, TokenEnd(encoder, computer, frames))
