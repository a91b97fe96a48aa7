"""Artifacts that grow: what was added to one, when, and what of another was made from which of its states.

An artifact's identity is that of its first generation and never changes. What is added later makes further generations,
each an entry in `artifact.json`, so that units made before stay as they are. A generation is known by a hash over the
identity and all entries up to it; what is made from the artifact (a store, tokens, a run) records that hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from deltactl.artifacts import HEADER, Identity, canonical_json, check_identity, read_header, write_sealed
from deltactl.errors import IdentityError
from deltactl.locations import Location

Entries = Sequence[Mapping[str, Any]]


def generation_hash(identity: Identity, generations: Entries) -> str:
    """Return what tells a generation from others: of the first the identity's own hash."""
    if not generations:
        return identity.hash()
    values = {"identity": identity.hash(), "generations": [dict(entry) for entry in generations]}
    return hashlib.sha256(canonical_json(values)).hexdigest()


def hashes_of(identity: Identity, generations: Entries) -> list[str]:
    """Return the hash of every generation, the first one's first."""
    return [generation_hash(identity, generations[:count]) for count in range(len(generations) + 1)]


def check_extends(root: Location, there: Entries, wanted: Entries) -> None:
    """Check that `wanted` begins with what is there: generations are added, never changed.

    Raises:
        IdentityError: it does not.
    """
    if len(there) > len(wanted):
        raise IdentityError(
            f"{root} is of generation {len(there) + 1} of its sources, what it would be made from now is of generation "
            f"{len(wanted) + 1}; name the newer one, or choose another --out"
        )
    for number, (before, now) in enumerate(zip(there, wanted, strict=False), start=2):
        if dict(before) != dict(now):
            raise IdentityError(
                f"{root} was made from another generation {number} of its sources ({_told(before)}) than there is now "
                f"({_told(now)}); choose another --out, or remove it"
            )


def check_fits(root: Location, identity: Identity, generations: Entries) -> bool:
    """Return whether an artifact is at `root`.

    Raises:
        IdentityError: it is another one, or of other generations.
    """
    if not (root / HEADER).exists():
        return False
    header = read_header(root)
    check_identity(root, identity, header.identity)
    check_extends(root, header.generations, generations)
    return True


def extend(root: Location, wanted: Entries) -> None:
    """Record in `artifact.json` that the artifact is of these generations now.

    Raises:
        IdentityError: see `check_extends`.
    """
    header = read_header(root)
    check_extends(root, header.generations, wanted)
    if len(header.generations) == len(wanted):
        return
    identity, entries = header.identity, [dict(entry) for entry in wanted]
    content = {"kind": identity.kind, "identity": dict(identity.values), "provenance": header.provenance}
    write_sealed(root / HEADER, {**content, "generations": entries})


def _told(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:16]}" for name, value in entry.items())
