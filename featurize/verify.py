"""Chooses how to verify and repair an artifact by what it is: shards, features, tokens or a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deltactl.artifacts import HEADER, read_header
from deltactl.claims import hold
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.store.packs import Listing
from deltactl.featurize.store.verify import verify_store
from deltactl.ingest.shards.verify import repair_shards, verify_shards
from deltactl.locations import Location
from deltactl.progress import Progress, format_seconds
from deltactl.removal import Consent, refuse
from deltactl.verification import Finding

Verify = Callable[[Location, Callable[[int], None] | None], list[Finding]]


@dataclass
class Verification:
    """One artifact to verify; build it with `of`."""

    root: Location
    kind: str
    verify: Verify
    seconds: float = 0.0
    _read: str = field(default="nothing", init=False, repr=False)
    """What was read, in words."""

    @classmethod
    def of(cls, place: str | Location, verify_run: Verify | None = None) -> Verification:
        """Find out what lies there; `verify_run` is what reads a run, where runs are to be verified too.

        Raises:
            ArtifactError: it is nothing that carries checksums.
        """
        root = Location.of(place)
        if verify_run is not None and "checkpoints" in root.list() and not (root / HEADER).exists():
            return cls(root, "run", verify_run)
        try:
            kind = read_header(root).identity.kind
        except DamagedError:
            # The header is what is damaged; the folder still tells.
            kind = "features" if Listing.of(root).units else "shards"
        if kind not in ("shards", "features", "tokens"):
            raise ArtifactError(f"{root} holds {kind}; verify reads shards, features, tokens and runs")
        return cls(root, kind, verify_shards if kind == "shards" else verify_store)

    def run(self) -> list[Finding]:
        """Read everything and return what is wrong."""
        started = time.monotonic()
        unit = {"shards": "shards", "run": "checkpoints"}.get(self.kind, "crops")
        with Progress(None, unit=unit, label="verify") as progress:
            findings = self.verify(self.root, progress.advance)
            self._read = f"{progress.count:,} {unit}"
        self.seconds = time.monotonic() - started
        return findings

    def repair(
        self,
        findings: Sequence[Finding],
        *,
        shards: str | None,
        backbone: str | None,
        device: str,
        consent: Consent = refuse,
    ) -> list[str]:
        """Make again what is damaged or missing; return what was done, or is left to do.

        `consent` is asked before damaged shards or tokens are taken out, which only their stage can make again.

        Raises:
            ArtifactError: a checkpoint is not made again.
            ClaimedError: another process writes there.
        """
        if self.kind == "run":
            raise ArtifactError(f"{self.root}: a checkpoint is not made again; remove what is damaged and train on")
        with hold(self.root):
            if self.kind == "shards":
                return repair_shards(self.root, findings, consent)
            from deltactl.featurize.store.repair import repair_store

            return repair_store(self.root, findings, shards=shards, backbone=backbone, device=device, consent=consent)

    def summary(self, findings: Sequence[Finding]) -> str:
        """Return one line for the end."""
        counts = [
            f"{sum(each.kind == kind for each in findings)} {kind}" for kind in ("damaged", "missing", "left over")
        ]
        unfinished = ", unfinished" if any(each.kind == "unfinished" for each in findings) else ""
        return f"{self.root}: read {self._read} in {format_seconds(self.seconds)}: {', '.join(counts)}{unfinished}"
