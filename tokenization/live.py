"""Whether a store of features or tokens tells the truth: `featurize.live`, with the tokenizer where tokens are stored.

Tokens that were made from features are made again from what these were made from: the features' own header says it,
where they still are, or the places are given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from deltactl.artifacts import UNWRITTEN, Header, Identity, read_header
from deltactl.devices import dtype_of
from deltactl.errors import ArtifactError, IdentityError
from deltactl.featurize.live import LiveCheck, Made, check_live
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.store.finish import sound_group
from deltactl.ingest.record import VIDEOS
from deltactl.locations import Location
from deltactl.tokenization.encoder import Encoder, TokenFill
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok


def verify_live(
    root: Location,
    count: int,
    *,
    seed: int = 0,
    place: str | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
    skip: Collection[str] = (),
) -> LiveCheck:
    """Make up to `count` clips of a store again, and compare them; see `check_live`.

    `place`, `backbone` and `tokenizer` are where it was made from, unless given.

    Raises:
        ArtifactError: the store holds no clips, or no longer says what it was made from.
        CheckpointError: the tokenizer, or the backbone, cannot be read.
        IdentityError: one of them is not what it was made from.
    """
    header = read_header(root)
    if header.identity.kind == "features":
        return check_live(root, count, seed=seed, place=place, backbone=backbone, device=device, skip=skip)
    if header.identity.kind != "tokens":
        raise ArtifactError(f"{root} holds {header.identity.kind}; features or tokens can be made again")
    network = _tokenizer(root, header, tokenizer)
    said = _as_features(header)
    return check_live(
        root,
        count,
        seed=seed,
        place=place,
        backbone=backbone,
        device=device,
        skip=skip,
        header=said,
        made=partial(_tokens_made, network, header.identity, root),
    )


def _tokenizer(root: Location, header: Header, given: str | None) -> DeltaTok:
    place = given or header.provenance.get("tokenizer")
    if place is None:
        raise ArtifactError(f"{root} no longer says which tokenizer made it; name it with --tokenizer")
    network = load(str(place), TOKENIZER)
    wanted = Identity("tokens", {**header.identity.values, "tokenizer": network_hash(network)})
    if differences := wanted.differences(header.identity):
        raise IdentityError(f"{root} was not made with {place}: {'; '.join(differences)}; name it with --tokenizer")
    return network


def _as_features(header: Header) -> Header:
    """Return what a header of the features behind tokens says, or would say."""
    values = dict(header.identity.values)
    values.pop("tokenizer", None)
    values["dtype"] = values.pop("features_dtype", UNWRITTEN["features_dtype"])
    provenance = dict(header.provenance)
    if (data := provenance.get("data")) is not None and VIDEOS not in provenance:
        try:
            of_features = read_header(Location.of(str(data)))
        except ArtifactError:
            provenance.pop("data")
        else:
            if of_features.identity.kind == "features":
                provenance.pop("data")
                known = {name: of_features.provenance.get(name) for name in ("shards", VIDEOS, "backbone")}
                provenance |= {name: value for name, value in known.items() if value is not None}
    return replace(header, identity=Identity("features", values, header.identity.file), provenance=provenance)


def _tokens_made(network: DeltaTok, identity: Identity, root: Location, computer: Computer) -> Made:
    """Return how tokens are made, with products of the type that they were made with."""
    sound = sound_group(root)
    how = {} if sound is None else sound.provenance.get("tokenizer", {})
    precision = how.get("precision", "auto")
    black = computer.backbone.black_features(*computer.size.pair)
    dtype = dtype_of(precision, computer.device)
    stored = identity.values.get("dtype", UNWRITTEN["dtype"])
    encoder = Encoder(network, black, computer.grid, computer.device, dtype, how.get("compiled", False), stored)
    return computer.start_here, partial(TokenFill, encoder=encoder)
