"""The base of the trained networks: read by name, written, and shared, without knowing what files are.

    network = DeltaTok.from_pretrained("owner/name")        # a Hub name, a file, a run, an export
    network.save_pretrained("exports/mine")                 # what `deltactl export` writes
    network.push_to_hub("owner/mine")                       # what `deltactl push` sends; private

What a file says about its network's training goes along: `provenance`, and in it the content hash of the backbone for
whose features the network was trained. The rooms that read and write files lie above this one, and are asked when one
of these methods is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar, cast

from torch import nn

from deltactl.registry import attribute

ORIGIN = "_deltactl_origin"
"""The attribute in which a network keeps what its file said."""

NetworkT = TypeVar("NetworkT", bound="Network")


class Network(nn.Module):
    """A network with a frozen `config`, which files of its own hold."""

    config: Any

    @classmethod
    def from_pretrained(
        cls: type[NetworkT], place: str | PathLike[str], *, revision: str | None = None, backbone: str | None = None
    ) -> NetworkT:
        """Return the network that lies at `place`, in eval mode, in float32, on the CPU.

        `place` is a file (`.safetensors`, `.bin`, `.ckpt`), the folder of a run or of an export, a URL of one of them,
        or a name on the Hub, of which `revision` is a branch, a tag or a commit. `backbone` is the content hash of the
        backbone whose features the network will see.

        Raises:
            CheckpointError: it is absent, damaged, another network, or was trained behind another backbone.
            HubError: the Hub does not hand it out.
        """
        read = attribute("deltactl.train.checkpoints.pretrained:from_pretrained")
        return cast(NetworkT, read(cls, place, revision=revision, backbone=backbone))

    def save_pretrained(self, folder: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the network to a new or empty folder: safetensors, a torch file, `config.json`, and a model card.

        Raises:
            ConfigError: the folder holds other files, or, without `overwrite`, an earlier network.
            StorageError: the disk is full, or not writable.
        """
        attribute("deltactl.train.checkpoints.pretrained:save_pretrained")(self, folder, overwrite=overwrite)

    def push_to_hub(self, repo: str, *, public: bool = False, revision: str | None = None) -> str:
        """Write the network to `owner/name` on the Hub, which is made where it is not there, and return its address.

        A new repository is private unless `public` is set. `revision` is a branch, made where it is not there.

        Raises:
            ConfigError: the repository holds something else.
            HubError: the Hub refuses, or does not answer.
        """
        push = attribute("deltactl.share.push:push_network")
        return cast(str, push(self, repo, public=public, revision=revision))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the file that it was read from says about how the network came about; empty for a new one."""
        found = vars(self).get(ORIGIN)
        return found[1] if found is not None else {}

    @property
    def backbone_hash(self) -> str | None:
        """The content hash of the backbone for whose features it was trained; None where its file does not say."""
        frozen = self.provenance.get("frozen")
        found = frozen.get("backbone") if isinstance(frozen, Mapping) else None
        return found if isinstance(found, str) else None
