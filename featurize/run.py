"""Drives a featurize: shards and a frozen backbone in, groups of features out.

See `filling` for how a store is filled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

from deltactl.artifacts import make_provenance, open_artifact, read_header
from deltactl.claims import hold
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.devices import find_devices
from deltactl.errors import ArtifactError
from deltactl.featurize.filling import GroupMaker, check_space, fill_store, find_workers, threads_of_worker
from deltactl.featurize.finish import drop_views, views_to_drop
from deltactl.featurize.loading import black_frame, load_computer, load_pipeline
from deltactl.featurize.pipeline import LIBRARIES
from deltactl.featurize.plan import find_shards, follow_shards, plan, store_location
from deltactl.featurize.precision import offer_bfloat16
from deltactl.featurize.state import state_there
from deltactl.featurize.views import listed_views, parse_view_numbers
from deltactl.generations import check_fits
from deltactl.ingest.record import unfinished_note
from deltactl.locations import Location
from deltactl.progress import Summary
from deltactl.removal import Consent, refuse

log = logging.getLogger(__name__)


def run(config: FeaturizeConfig, consent: Consent = refuse) -> Summary:
    """Make the views of a store that `config` asks for, and return what was done.

    `consent` is asked before views are dropped. Raises as `plan` and `filling.fill_store`.
    """
    summary = Summary(unit="crops")
    planned = plan(config)
    config, devices, workers = find_workers(planned.config)
    provenance = make_provenance(
        LIBRARIES,
        backbone=config.backbone,
        shards=str(planned.shards.root),
        device=devices[0].partition(":")[0],
        precision=config.precision,
        batch_size=config.batch_size or "auto",
        decoder=config.decoder,
    )
    if config.drop_views:
        with hold(planned.root):
            open_artifact(planned.root, planned.identity, provenance)
            check_fits(planned.root, planned.identity, planned.generations)
            drop_views(planned.root, parse_view_numbers(config.drop_views), consent)
    if (note := unfinished_note(planned.shards)) is not None:
        log.warning("%s (features are made of those that are there)", note)
    black = black_frame(config, planned.root)
    load = partial(load_pipeline, config, planned.shards, planned.root, planned.identity, planned.crops)
    maker = GroupMaker(load, devices, threads_of_worker(config, workers))
    return fill_store("featurize", config, planned, maker, workers, provenance, black=black, summary=summary)


def dry_run(config: FeaturizeConfig) -> Iterator[str]:
    """Yield what a featurize would do and cost; the backbone is loaded, and timed on two batches.

    Raises at the end what would stop it at once: StorageError where there is no room for it.
    """
    planned = plan(config)
    config, devices = planned.config, find_devices(config.device)
    computer = load_computer(config, devices[0])
    check_fits(planned.root, planned.identity, planned.generations)
    if (note := unfinished_note(planned.shards)) is not None:
        yield f"warning: {note}"
    freed = 0
    if config.drop_views:
        removals = views_to_drop(planned.root, parse_view_numbers(config.drop_views))
        freed = sum(removal.bytes for removal in removals)
        yield from (f"would remove {removal}" for removal in removals)
    rate = computer.frames_per_second()
    offer = offer_bfloat16(config, planned, computer, rate, load_computer)
    yield from planned.lines(rate * len(devices)) + ([] if offer is None else [offer])
    if (state := state_there(planned.root)) is not None:
        yield state
    check_space(planned, freed)


def drop(config: FeaturizeConfig, consent: Consent = refuse) -> list[str]:
    """Only remove the views that `config.drop_views` names; return what to tell. Needs no backbone."""
    root, views = _to_drop(config)
    with hold(root):
        left = drop_views(root, views, consent)
    return [f"{root}: dropped {listed_views(views)}; {listed_views(left)} left"]


def drop_dry_run(config: FeaturizeConfig) -> list[str]:
    """Return what `drop` would remove, with sizes."""
    root, views = _to_drop(config)
    return [f"would remove {removal}" for removal in views_to_drop(root, views)]


def _to_drop(config: FeaturizeConfig) -> tuple[Location, tuple[int, ...]]:
    """Return the store and the views that are to go; ArtifactError where it is none."""
    assert config.drop_views is not None, "nothing to drop"
    if config.out is None:
        shards = find_shards(config.shards)
        root = store_location(follow_shards(config, shards), shards.root.name)
    else:
        root = Location.of(config.out)
    header = read_header(root)
    if header.identity.kind != "features":
        raise ArtifactError(f"{root} holds {header.identity.kind}; a feature store was expected")
    return root, parse_view_numbers(config.drop_views)
