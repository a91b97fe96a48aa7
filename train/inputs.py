"""What a run trains from: finds the artifact, opens it, and says what it is, so that a resumed run can check it.

In comes a path, a URL, or nothing (then the workspace is looked through); out comes an `Input`: a feature store, a
token store, or shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import Identity, read_header, workspace
from deltactl.errors import ArtifactError, ConfigError, IdentityError
from deltactl.featurize.store import ClipStore, FeatureStore, TokenStore
from deltactl.fields import Fields
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location

NAMES_SHOWN = 4


@dataclass(frozen=True)
class DataRecord:
    """What a run read, as its checkpoints remember it."""

    identity: Identity
    groups: Mapping[str, str]
    """The groups (views of shards) or shards that it used, and their hashes."""

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        values = {"kind": self.identity.kind, "values": dict(self.identity.values)}
        return {"identity": values, "groups": dict(self.groups)}

    @property
    def frozen(self) -> dict[str, str]:
        """Content hashes of the frozen networks whose output the run learns from: `backbone` and perhaps `tokenizer`.

        They stand before the cache that the run reads, or in its loop.
        """
        values = self.identity.values
        names = {"backbone": ("live_backbone", "backbone"), "tokenizer": ("frozen_tokenizer", "tokenizer")}
        found = {name: next((values[key] for key in keys if key in values), None) for name, keys in names.items()}
        return {name: str(value) for name, value in found.items() if value is not None}

    @classmethod
    def of(cls, value: Fields) -> DataRecord:
        """Return what `to_json` wrote."""
        identity = value.nested("identity")
        return cls(Identity(identity.text("kind"), identity.nested("values").values), value.text_map("groups"))

    def check(self, now: DataRecord, checkpoint: str, data: str) -> None:
        """Raise IdentityError where `now` is not what this run read; groups that came since are welcome."""
        problems = self.identity.differences(now.identity)
        gone = sorted(self.groups.keys() - now.groups.keys())
        changed = sorted(
            name for name in self.groups.keys() & now.groups.keys() if self.groups[name] != now.groups[name]
        )
        problems += [f"{_few(names)} {what}" for names, what in ((gone, "gone"), (changed, "changed")) if names]
        if problems:
            raise IdentityError(
                f"{checkpoint} was trained on other data than {data}: {'; '.join(problems)}. Give it the data it was "
                "trained on, or start anew from its weights with --init"
            )


def open_input(place: str | None, kinds: Sequence[str]) -> ClipStore | ShardSet:
    """Open what a run trains from; ConfigError where it is not one of `kinds`, or none is named and none is alone."""
    root = Location.of(place) if place is not None else _only_one(kinds)
    try:
        kind = read_header(root).identity.kind
    except ArtifactError as error:
        raise ArtifactError(f"{error}; expected {_either(kinds)}") from error
    if kind not in kinds:
        raise ConfigError(f"{root} holds {kind}; expected {_either(kinds)}")
    match kind:
        case "features":
            return FeatureStore.open(root)
        case "tokens":
            return TokenStore.open(root)
        case _:
            return ShardSet.open(root)


def record_of(data: ClipStore | ShardSet) -> DataRecord:
    """Return what a run remembers of the data it reads."""
    if isinstance(data, ShardSet):
        return DataRecord(data.identity, {unit: data.sidecar(unit).tar_sha256 for unit in data.units})
    return DataRecord(data.identity, data.group_hashes())


def _only_one(kinds: Sequence[str]) -> Location:
    """Return the only artifact of the first kind that the workspace has any of."""
    for kind in kinds:
        folder = workspace() / kind
        names = folder.list()
        if len(names) > 1:
            raise ConfigError(f"{folder} holds several {kind}: {_few(names)}; name the one to train from")
        if names:
            return folder / names[0]
    raise ConfigError(f"there is nothing to train from in the workspace; expected {_either(kinds)}: name it")


def _either(kinds: Sequence[str]) -> str:
    return " or ".join(kinds)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    )
