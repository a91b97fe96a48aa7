"""The sidecar of a shard: a sealed JSON file beside its tar that says what the tar holds, and that it is whole.

It is written after its tar, and without it the tar does not count. What was written in format 1 is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import Quarantined, read_sealed
from deltactl.errors import ArtifactError
from deltactl.ingest.shards.clip_index import sources_from, sources_to_json
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.locations import Location

FORMAT = 2
"""Of the sidecars that are written: 2 records the sources of the clips, 1 did not. Both are read."""


@dataclass(frozen=True)
class Sidecar:
    """What stands beside a tar."""

    unit: str
    keys: tuple[str, ...]
    sources: tuple[str, ...] | None
    """The name of the source of each clip; None in a sidecar of format 1, which does not say."""
    tar_bytes: int
    tar_sha256: str
    quarantined: tuple[Quarantined, ...]
    provenance: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Number of clips in the tar."""
        return len(self.keys)

    def source_names(self, *, evaluation: bool) -> tuple[str, ...]:
        """Return the name of the source of each clip; in format 1 it is guessed, alike for all `evaluation` sets."""
        return guess_sources(self.keys, evaluation=evaluation) if self.sources is None else self.sources

    def to_json(self) -> dict[str, Any]:
        """Return the content of the sidecar, without its seal."""
        return {
            "format": 1 if self.sources is None else FORMAT,
            "count": self.count,
            "keys": list(self.keys),
            **({} if self.sources is None else {"sources": sources_to_json(self.sources)}),
            "tar_bytes": self.tar_bytes,
            "tar_sha256": self.tar_sha256,
            "quarantined": [entry.to_json() for entry in self.quarantined],
            "provenance": self.provenance,
        }


def read_sidecar(root: Location, unit: str) -> Sidecar:
    """Return the sidecar of a unit.

    Raises:
        FileNotFoundError: the unit is not finished.
        ArtifactError: the sidecar is of a format that is not known here.
        DamagedError: it is damaged.
    """
    content = read_sealed(root / f"{unit}.json")
    if (found := content.integer("format")) not in (1, FORMAT):
        raise ArtifactError(f"{root / f'{unit}.json'} has format {found}; this program reads 1 and {FORMAT}")
    keys = content.texts("keys")
    return Sidecar(
        unit=unit,
        keys=tuple(keys),
        sources=None if found == 1 else sources_from(content.nested("sources"), len(keys)),
        tar_bytes=content.integer("tar_bytes"),
        tar_sha256=content.text("tar_sha256"),
        quarantined=tuple(Quarantined.of(entry) for entry in content.items("quarantined")),
        provenance=content.nested("provenance").values,
    )


def finished_units(root: Location) -> list[str]:
    """Return the units that have a sidecar, in order."""
    names = root.list()
    present = set(names)
    return [name[:-5] for name in names if name.endswith(".json") and f"{name[:-5]}.tar" in present]
