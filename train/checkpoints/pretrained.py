"""Networks that read and write themselves: what is behind `Network.from_pretrained` and `save_pretrained`.

Files are those that `loading` reads and `export` writes. A network that was read remembers what its file said, and the
hash of its weights then: where they are still the same, what is written says it all again; where they were trained
further, only what still holds, the frozen networks and the data's size, and of which network they are a continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from torch import nn

from deltactl import __version__
from deltactl.artifacts import hash_told
from deltactl.claims import hold
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.hub import is_hub_name
from deltactl.locations import Location
from deltactl.publication import publishable
from deltactl.removal import Removal, agree, refuse
from deltactl.train.checkpoints.export import refuse_to_overwrite, write_weights
from deltactl.train.checkpoints.loading import Checkpoint, read
from deltactl.train.networks.known_kinds import kinds
from deltactl.train.networks.network import ORIGIN, Network

LASTING = ("frozen", "trained")
"""What of the provenance still holds of weights that were trained further."""


def from_pretrained(
    network: type[nn.Module], place: str | PathLike[str], *, revision: str | None, backbone: str | None
) -> nn.Module:
    """Return what lies at `place`, which must be a network of this class; see `Network.from_pretrained`."""
    name = fspath(place)
    if revision is not None:
        if not is_hub_name(name):
            raise ConfigError(f"revision {revision!r} goes with a name on the Hub, and {name} is none; leave it out")
        name = f"{name}@{revision}"
    expected = [] if network is Network else [kind for kind in kinds() if kind.network is network]
    checkpoint = read(name, *expected)
    if not issubclass(checkpoint.kind.network, network):
        raise CheckpointError(
            f"{checkpoint.source} is a {checkpoint.kind.title}; a {network.__name__} was expected here"
        )
    provenance = {**checkpoint.provenance, **checkpoint.contents.progress}
    frozen = provenance.get("frozen")
    trained_behind = frozen.get("backbone") if isinstance(frozen, Mapping) else None
    if backbone is not None and trained_behind not in (None, backbone):
        raise CheckpointError(
            f"{checkpoint.source} was trained behind another backbone (content hash {hash_told(str(trained_behind))}) "
            f"than the one it is wanted for ({hash_told(backbone)}); name that backbone, or another network"
        )
    loaded = checkpoint.load()
    object.__setattr__(loaded, ORIGIN, (checkpoint.content_hash, provenance))
    return loaded


def save_pretrained(network: nn.Module, folder: str | PathLike[str], *, overwrite: bool) -> None:
    """Write a network to a folder; see `Network.save_pretrained`."""
    target = Location.of(folder)
    refuse_to_overwrite(target)
    with hold(target):
        refuse_to_overwrite(target)
        consent = agree if overwrite else refuse
        consent([Removal.of(target / name, "of an earlier export, it seems") for name in target.list()])
        checkpoint = in_memory(network)
        write_weights(checkpoint, target, checkpoint.provenance)


def in_memory(network: nn.Module) -> Checkpoint:
    """Return a network in memory with all that may be said of it, as if it had been read from a file."""
    plain = getattr(network, "_orig_mod", network)
    origin: tuple[str, Mapping[str, Any]] | None = vars(plain).get(ORIGIN)
    provenance: dict[str, Any] = {}
    if origin is not None:
        content_hash, said = origin
        unchanged = Checkpoint.of(plain, {}).content_hash == content_hash
        provenance = dict(said) if unchanged else {name: said[name] for name in LASTING if name in said}
        if not unchanged:
            provenance["trained_from"] = content_hash
    return Checkpoint.of(plain, publishable({**provenance, "exported_by": f"deltactl {__version__}"}))
