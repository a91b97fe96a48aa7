"""What `verify` finds in an artifact, and the one way in which it reads a file: whole, against its checksum.

A room says which files its artifact has, and what reads each; `Check` reads them, and keeps what is damaged, missing or
left over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from deltactl.artifacts import HEADER, Header, read_header
from deltactl.claims import FOLDER as CLAIMS
from deltactl.drafts import is_draft
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.locations import Location
from deltactl.staging import INSIDE, leftovers

Content = TypeVar("Content")
OF_A_REPOSITORY = frozenset({"README.md", ".gitattributes", ".cache"})
"""What lies beside an artifact that came from the Hub, or goes there."""

Kind = Literal["damaged", "missing", "unfinished", "left over"]


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that is not as it should be."""

    kind: Kind
    path: str
    """Relative to the artifact."""
    reason: str
    unit: str = ""
    """Name of the unit that must be made again; empty where it is another file."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason if self.reason.startswith(self.path) else f'{self.path}: {self.reason}'}"

    @classmethod
    def of(cls, error: Exception, root: Location, path: str, unit: str = "") -> Finding:
        """Return the finding that an error of a reader amounts to, without the remedy, which is known here."""
        reason = str(error).partition("; run: ")[0].partition("; remove its sidecar")[0].removeprefix(f"{root}/")
        return cls("missing" if " is missing" in reason else "damaged", path, reason, unit)

    @property
    def harmful(self) -> bool:
        """Whether data is lost, or not made yet; what is left over does no harm."""
        return self.kind != "left over"


class Check:
    """The reading of one artifact, file by file, and what was found."""

    def __init__(self, root: Location, advance: Callable[[int], None] | None = None) -> None:
        """`advance` hears of what was read, counted as the room counts."""
        self.root = root
        self.findings: list[Finding] = []
        self.advance = advance or (lambda _: None)

    def add(self, kind: Kind, path: str, reason: str, unit: str = "") -> None:
        """Keep a finding."""
        self.findings.append(Finding(kind, path, reason, unit))

    def read(
        self,
        path: str,
        read: Callable[[], Content],
        unit: str = "",
        *,
        absent: str = "it is gone",
        faults: type[DeltactlError] = ArtifactError,
    ) -> Content | None:
        """Return what `read` makes of a file; None where it cannot, which is a finding.

        `absent` is the reason where no file is there; `faults` are the errors of a reader that say that its file is at
        fault. Others, such as those of a disk or a server, end the check.
        """
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            self.add("missing", path, absent, unit)
        except faults as error:
            self.findings.append(Finding.of(error, self.root, path, unit))
        return None

    def header(self) -> Header | None:
        """Return the artifact's header; None where it is damaged or missing, which is a finding."""
        try:
            return read_header(self.root)
        except DamagedError as error:
            self.findings.append(Finding.of(error, self.root, HEADER))
        except ArtifactError as error:
            self.add("missing", HEADER, str(error))
        return None

    def hashed(self, path: str, sha256: str, absent: str) -> None:
        """Read a file that must have this hash; `absent` is the reason where it is not there."""
        data = self.read(path, (self.root / path).read_whole, absent=absent)
        if data is not None and hashlib.sha256(data).hexdigest() != sha256:
            self.add("damaged", path, "it does not match its checksum")

    def left_over(self, names: Iterable[str], reason: str, within: str = "") -> None:
        """Keep names that do not belong to an artifact; not those of processes at work: claims, and drafts.

        `within` is the folder, relative to the artifact, that the names are of.
        """
        for name in sorted(names):
            if not (name in (CLAIMS, INSIDE) or is_draft(name) or (not within and name in OF_A_REPOSITORY)):
                self.add("left over", f"{within}{name}", reason)

    def end(self) -> list[Finding]:
        """Look for drafts in and beside the artifact, and return everything that was found.

        Drafts of dead processes go when something is written there again.
        """
        for path, state in leftovers(self.root):
            self.add("left over", path, state)
        return self.findings
