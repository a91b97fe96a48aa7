"""Drives a tokenize: features, shards or videos, and a tokenizer in, groups of tokens out.

As featurize, with other ends (see `featurize.run`): from a feature store its clips are read ahead while others are
encoded (`features`); from shards or videos the pipeline of featurize runs, with a tokenizer where features would be
written (`encoder.TokenFill`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from deltactl.artifacts import Identity, make_provenance
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.devices import dtype_of, use_device
from deltactl.featurize.describe import state_there
from deltactl.featurize.loading import load_computer, make_pipeline
from deltactl.featurize.pipeline.fill import LIBRARIES, Filler
from deltactl.featurize.pipeline.pipeline import Pipeline
from deltactl.featurize.pipeline.read import ClipReader
from deltactl.featurize.run import (
    GroupMaker,
    JobRunner,
    check_space,
    fill_store,
    find_workers,
    share_decoders,
    threads_of_worker,
)
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import Crops
from deltactl.generations import check_fits
from deltactl.locations import Location
from deltactl.progress import Summary
from deltactl.tokenization.encoder import Encoder, TokenFill
from deltactl.tokenization.features import StoreTokens
from deltactl.tokenization.plan import plan
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.deltatok import TOKENIZER

MakeFiller = Callable[[Encoder], Filler]


def run(config: TokenizeConfig) -> Summary:
    """Make the tokens that `config` asks for, and return what was done.

    Raises as `plan` and `featurize.run.fill_store`.
    """
    summary = Summary(unit="crops")
    planned = plan(config)
    config, devices, workers = find_workers(planned.config)
    provenance = make_provenance(
        LIBRARIES,
        tokenizer=config.tokenizer,
        backbone=planned.backbone,
        **planned.provenance,
        device=devices[0],
    )
    filler = partial(_filler, planned.root, planned.identity, planned.layout)
    load: Callable[[str], JobRunner]
    features = planned.features
    if features is None:
        load = partial(_load_for_store, config, planned.tokenizer, planned.data.root, filler)
    else:
        reader, frames = features.origin.reader(len(features.views)), features.origin.identity.integer("frames")
        config = share_decoders(config, reader, devices[0], workers)
        how = features.config.model_copy(
            update={name: getattr(config, name) for name in ("worker_gpus", "worker_cpus", "decode_threads")}
        )
        load = partial(_load_live, config, how, planned.tokenizer, reader, frames, features.crops, filler)
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
    config: TokenizeConfig, tokenizer: str, data: Location, filler: MakeFiller, device: str
) -> StoreTokens:
    place, store = use_device(device), FeatureStore.open(data)
    dtype = dtype_of(config.precision, place)
    encoder = Encoder(load(tokenizer, TOKENIZER), store.black, store.grid, place, dtype, config.compile, config.dtype)
    return StoreTokens(store, encoder, filler(encoder))


def _load_live(
    config: TokenizeConfig,
    features: FeaturizeConfig,
    tokenizer: str,
    reader: ClipReader,
    frames: int,
    crops: Crops,
    filler: MakeFiller,
    device: str,
) -> Pipeline:
    """Return the pipeline of featurize with a tokenizer at its end; patch features are never written."""
    computer = load_computer(features, device)
    black = computer.backbone.black_features(*features.size.pair)
    dtype = dtype_of(config.precision, computer.device)
    encoder = Encoder(
        load(tokenizer, TOKENIZER), black, computer.grid, computer.device, dtype, config.compile, config.dtype
    )
    return make_pipeline(features, reader, frames, computer, computer.start_here, crops, filler(encoder))


def _filler(root: Location, identity: Identity, layout: Layout, encoder: Encoder) -> Filler:
    return Filler(root, identity, layout, encoder.grid, encoder.device.type, partial(TokenFill, encoder=encoder))
