"""Chooses how to verify and repair an artifact by what it is: shards, features or tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from deltactl.artifacts import read_header
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.finish import published
from deltactl.featurize.verify_store import verify_store
from deltactl.ingest.verify import Finding, repair_shards, verify_shards
from deltactl.locations import Location
from deltactl.progress import Progress, format_seconds


@dataclass
class Verification:
    """One artifact to verify; build it with `of`."""

    root: Location
    kind: str
    seconds: float = 0.0

    @classmethod
    def of(cls, place: str | Location) -> Verification:
        """Find out what lies there; ArtifactError where it is nothing that carries checksums."""
        root = Location.of(place)
        try:
            kind = read_header(root).identity.kind
        except DamagedError:
            # The header is what is damaged; the folder still tells.
            kind = "features" if published(root) else "shards"
        if kind not in ("shards", "features", "tokens"):
            raise ArtifactError(f"{root} holds {kind}; verify reads shards, features and tokens")
        return cls(root, kind)

    def run(self) -> list[Finding]:
        """Read everything and return what is wrong."""
        started = time.monotonic()
        unit = "shards" if self.kind == "shards" else "crops"
        with Progress(None, unit=unit, label="verify") as progress:
            verify = verify_shards if self.kind == "shards" else verify_store
            findings = list(verify(self.root, progress.advance))
            self._read = f"{progress.count:,} {unit}"
        self.seconds = time.monotonic() - started
        return findings

    def repair(
        self, findings: Sequence[Finding], *, shards: str | None, backbone: str | None, device: str
    ) -> list[str]:
        """Make again what is damaged or missing; return what was done, or is left to do."""
        if self.kind == "shards":
            return repair_shards(self.root, list(findings))
        from deltactl.featurize.repair import repair_store

        return repair_store(self.root, findings, shards=shards, backbone=backbone, device=device)

    def summary(self, findings: Sequence[Finding]) -> str:
        """Return one line for the end."""
        counts = [
            f"{sum(each.kind == kind for each in findings)} {kind}" for kind in ("damaged", "missing", "left over")
        ]
        return f"{self.root}: read {self._read} in {format_seconds(self.seconds)}: {', '.join(counts)}"
