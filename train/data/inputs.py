"""What a run trains from: finds the artifact, opens it, and says what it is, for a resumed run to check.

Takes a path, a URL, or nothing (then the workspace is looked through); returns a feature store, a token store, or
shards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltactl.artifacts import Identity, read_header, workspace
from deltactl.errors import ArtifactError, ConfigError, DeltactlError
from deltactl.featurize.backbones.known import split
from deltactl.featurize.store.dropped import dropped_note
from deltactl.featurize.store.layout import view_number
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.fields import Fields
from deltactl.ingest.record import VIDEOS, unfinished_note
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import few

log = logging.getLogger(__name__)

LONGEST_LINEAGE = 4
"""Artifacts from tokens back to shards, and one more."""


def frames_of(data: ClipStore | ShardSet) -> int:
    """Return the frames of a clip of shards, or the steps of features or tokens of a clip of a store."""
    return data.identity.integer("frames") if isinstance(data, ShardSet) else data.frames


@dataclass(frozen=True)
class DataRecord:
    """What a run read, as its checkpoints remember it."""

    identity: Identity
    groups: Mapping[str, str]
    """The groups (views of shards) or shards that it used, and their hashes."""
    generations: tuple[Mapping[str, Any], ...] = ()
    """What had been added to the sources since the first generation (see `generations`)."""

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        values = {"kind": self.identity.kind, "values": dict(self.identity.values)}
        added = [dict(entry) for entry in self.generations]
        return {"identity": values, "groups": dict(self.groups), "generations": added}

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
        return cls(
            Identity(identity.text("kind"), identity.nested("values").values),
            value.text_map("groups"),
            value.entries("generations"),
        )

    def problems(self, now: DataRecord, data: str) -> list[str]:
        """Return in what `now`, which lies at `data`, is not what this run read; groups that came since are welcome."""
        problems = self.identity.differences(now.identity)
        gone = sorted(self.groups.keys() - now.groups.keys())
        changed = sorted(
            name for name in self.groups.keys() & now.groups.keys() if self.groups[name] != now.groups[name]
        )
        problems += [f"{few(names)} {what}" for names, what in ((gone, "gone"), (changed, "changed")) if names]
        if gone and (note := _who_dropped(data, gone)):
            problems.append(note)
        return problems

    def warn_if_grown(self, now: DataRecord, checkpoint: str, data: str) -> None:
        """Tell of sources that were added since: from here on the run draws from them as well."""
        if len(now.generations) > len(self.generations):
            log.warning(
                "%s has grown since %s was written: it read generation %d of the sources, there is generation %d now; "
                "the run goes on with all of them, in an order that an unbroken run would not have had. To keep to "
                "what it began with, give it a copy of the data of then",
                data,
                checkpoint,
                len(self.generations) + 1,
                len(now.generations) + 1,
            )


def find_input(place: str | None, kinds: Sequence[str]) -> tuple[Location, str]:
    """Return where what a run trains from lies, and its kind.

    Raises:
        ConfigError: it is not one of `kinds`, or none is named and none is alone.
        ArtifactError: it is nothing.
    """
    root = Location.of(place) if place is not None else _only_one(kinds)
    try:
        kind = read_header(root).identity.kind
    except ArtifactError as error:
        raise ArtifactError(f"{error}; expected {_either(kinds)}") from error
    if kind not in kinds:
        raise ConfigError(f"{root} holds {kind}; expected {_either(kinds)}")
    return root, kind


def open_input(place: str | None, kinds: Sequence[str]) -> ClipStore | ShardSet:
    """Open what a run trains from; raises like `find_input`."""
    root, kind = find_input(place, kinds)
    match kind:
        case "features":
            data: ClipStore | ShardSet = FeatureStore.open(root)
        case "tokens":
            data = TokenStore.open(root)
        case _:
            data = ShardSet.open(root)
    warn_if_unfinished(data)
    return data


def warn_if_unfinished(data: ClipStore | ShardSet) -> None:
    """Say so where the stage that makes the data has not ended: what is there is read, and no more."""
    if isinstance(data, ShardSet):
        if (note := unfinished_note(data)) is not None:
            log.warning("%s (what is there is read)", note)
    elif data.unfinished is not None:
        log.warning("%s is unfinished: %s (views that are whole are read)", data.root, data.unfinished)


def record_of(data: ClipStore | ShardSet) -> DataRecord:
    """Return what a run remembers of the data it reads."""
    if isinstance(data, ShardSet):
        groups = {unit: data.sidecar(unit).tar_sha256 for unit in data.units}
        return DataRecord(data.identity, groups, data.generations)
    return DataRecord(data.identity, data.group_hashes(), data.generations)


def _who_dropped(data: str, groups: Sequence[str]) -> str | None:
    """Return who dropped the views that these groups were of, where `data` is a store that says so."""
    views = {view for group in groups if (view := view_number(group.partition("/")[0])) is not None}
    return dropped_note(Location.of(data), sorted(views)) if views else None


def lineage(root: Location) -> dict[str, Any]:
    """Return what an artifact and those that it was made from say of where its clips come from.

    `dataset`, `split`, `sources` (how many videos) and `backbone` (by name), as far as the artifacts are still where
    they were.
    """
    facts: dict[str, Any] = {}
    for _ in range(LONGEST_LINEAGE):
        try:
            header = read_header(root)
        except (DeltactlError, OSError):
            break
        values, provenance = header.identity.values, header.provenance
        values = {**values, **(said if isinstance(said := values.get(VIDEOS), Mapping) else {})}
        for name in ("dataset", "split", "sources"):
            if isinstance(values.get(name), int) or (isinstance(values.get(name), str) and name != "sources"):
                facts.setdefault(name, values[name])
        if backbone := provenance.get("backbone"):
            named = split(str(backbone))
            place = Path(named.place)
            shown = replace(named, family=None, place=place.name) if place.exists() else named
            facts.setdefault("backbone", str(shown))
        parent = provenance.get("data") or provenance.get("shards")
        if not parent:
            break
        root = Location.of(str(parent))
    return facts


def _only_one(kinds: Sequence[str]) -> Location:
    """Return the only artifact of the first kind that the workspace has any of."""
    for kind in kinds:
        folder = workspace() / kind
        names = folder.list()
        if len(names) > 1:
            raise ConfigError(f"{folder} holds several {kind}: {few(names)}; name the one to train from")
        if names:
            return folder / names[0]
    raise ConfigError(f"there is nothing to train from in the workspace; expected {_either(kinds)}: name it")


def _either(kinds: Sequence[str]) -> str:
    return " or ".join(kinds)
