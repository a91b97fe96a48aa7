"""What a command would remove or overwrite, and who may say yes to it.

Whatever takes away something that a user made (a view, a report, a damaged shard that nothing else may hold) first says
so as `Removal`s, each with its name and size, and asks a `Consent`, which raises unless they may go. The command line
asks on a terminal or takes `--yes` (`commands/consent.py`); the Python API refuses unless a caller hands in `agree`.
What a stage merely makes again (an index, a group of the same identity) is not asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltactl.artifacts import HEADER, Identity, read_header
from deltactl.errors import ConfigError
from deltactl.locations import Location
from deltactl.progress import cut_short, format_bytes

LONGEST_DIFFERENCE = 80
"""Letters of what differs, in a note."""


@dataclass(frozen=True)
class Removal:
    """Something that would be gone afterwards."""

    what: str
    """Its name, as the user knows it: a path, or a view and its store."""
    bytes: int
    """What it takes on the disk."""
    note: str = ""
    """What else there is to know, such as that nothing would be left."""

    @classmethod
    def of(cls, place: Location, note: str = "") -> Removal:
        """Return the removal of a file or a whole folder."""
        return cls(str(place), place.total_bytes(), note)

    def __str__(self) -> str:
        return f"{self.what} ({format_bytes(self.bytes)}{f'; {self.note}' if self.note else ''})"


Consent = Callable[[Sequence[Removal]], None]
"""Takes what would be removed or overwritten; returns if that may go, and raises ConfigError if not."""


def agree(removals: Sequence[Removal]) -> None:
    """Let everything go: the consent of a caller of the Python API who means it."""


def refuse(removals: Sequence[Removal]) -> None:
    """Let nothing go.

    Raises:
        ConfigError: something would be gone; the message names it.
    """
    if removals:
        raise ConfigError(f"nothing was removed or overwritten: {listed(removals)} would be gone")


def listed(removals: Sequence[Removal]) -> str:
    """Return names and sizes for one line; of many, the first few and the sum."""
    first = ", ".join(map(str, removals[:4]))
    if len(removals) <= 4:
        return first
    return f"{first} and {len(removals) - 4:,} more ({format_bytes(sum(each.bytes for each in removals))} in all)"


def replaced(folder: Location, identity: Identity) -> list[Removal]:
    """Return what an artifact of this identity would replace at `folder`: an earlier one of another identity.

    One of the same identity is made again, which takes nothing away; nor does what else lies there go.
    """
    if HEADER not in folder.list() or not (differences := identity.differences(read_header(folder).identity)):
        return []
    more = f" and {len(differences) - 2} more" if len(differences) > 2 else ""
    said = "; ".join(cut_short(each, LONGEST_DIFFERENCE) for each in differences[:2])
    note = f"an earlier {identity.kind}: {said}{more}"
    return [Removal.of(folder, note)]
