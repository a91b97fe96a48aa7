"""What an RGB head trains from: a feature store, the shards that hold its frames, and the backbone that it undoes.

Takes settings; returns them opened and checked. Shards that are not named are looked for where the store says that it
was made from them. The backbone is loaded for its normalisations only, and let go: a second for a ViT-B.
"""

from __future__ import annotations

from deltactl.artifacts import hash_told
from deltactl.configs.follow import is_chosen
from deltactl.configs.rgb import RGBConfig
from deltactl.errors import CheckpointError, ConfigError, IdentityError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pictures.clip_frames import shards_of
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.record import VIDEOS
from deltactl.ingest.shards.format import ShardSet
from deltactl.progress import few
from deltactl.train.data.heads_data import check_made_from
from deltactl.train.data.inputs import open_input
from deltactl.train.networks.rgb_head import NormalisationValues


def open_rgb_inputs(config: RGBConfig) -> tuple[ShardSet, FeatureStore]:
    """Return the shards and the features that were made from them.

    Raises:
        ArtifactError: the store, or the shards that are named, are not there.
        ConfigError: they hold something else, or there are no shards.
        IdentityError: the store was not made from these shards.
    """
    store = open_input(config.data, ("features",))
    assert isinstance(store, FeatureStore)
    shards = _shards(config, store)
    check_made_from(store, shards)
    if gone := sorted(set(store.units) - set(shards.units)):
        raise IdentityError(
            f"{shards.root} lacks {few(gone)}, which {store.root} has features of; run ingest again, or name whole "
            "shards with --shards DIR"
        )
    return shards, store


def normalisations(config: RGBConfig, store: FeatureStore) -> NormalisationValues:
    """Return what the head undoes: the final norm and the normalisation of pixels of the backbone behind a store.

    The backbone is the one that the settings choose, else the one that the store names.

    Raises:
        CheckpointError: the backbone cannot be loaded.
        ConfigError: it is another one, or its norm cannot be undone.
        HubError: the Hub does not hand it out.
    """
    named = store.provenance.get("backbone")
    backbone = named if isinstance(named, str) and not is_chosen(config, "backbone") else config.backbone
    try:
        network = Backbone.load(backbone, "cpu")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; an RGB head undoes the norm of the backbone behind {store.root}: name it with --backbone"
        ) from error
    here, there = network.content_hash, store.identity.text("backbone")
    if here != there:
        raise ConfigError(
            f"the backbone {backbone} has the content hash {hash_told(here)}, but the one behind {store.root} has "
            f"{hash_told(there)}; name that one with --backbone"
        )
    values = NormalisationValues.of(network)
    if dead := int((values.norm_weight == 0).sum()):
        raise ConfigError(
            f"the final norm of the backbone {backbone} has {dead} weights of 0, which an RGB head cannot undo; make "
            "features without it: featurize with --no-norm"
        )
    return values


def _shards(config: RGBConfig, store: FeatureStore) -> ShardSet:
    """Open the shards that are named, else those that the store was made from."""
    if config.shards is not None:
        return ShardSet.open(config.shards)
    if (found := shards_of(store.root)) is not None:
        return found
    if VIDEOS in store.identity.values:
        raise ConfigError(
            f"{store.root} was made straight from videos, which keeps no frames; an RGB head learns from frames: make "
            "shards of the videos (deltactl ingest), and features of these"
        )
    place = store.provenance.get("shards")
    where = f"are not at {place} any more" if isinstance(place, str) else "are not recorded in it"
    raise ConfigError(
        f"an RGB head learns from the frames that {store.root} was made from, and the shards that hold them {where}; "
        "name them: --shards DIR"
    )
