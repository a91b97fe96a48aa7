"""What every stage shares: the workspace, identity and provenance, quarantine, the index.

An artifact is a folder with `artifact.json` (what it is), units (each published whole or not at all, so that a stage
can be killed at any moment and run again), and, once complete, `index.json` and `quarantine.jsonl`, which are made
from the units and can be made again.

*Identity* is what must not be mixed: kind, format, configuration, seed, sources, weights. *Provenance* is how it came
about: versions, device, command, time; a difference there is worth a warning at most.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from deltactl import __version__
from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError
from deltactl.fields import Fields
from deltactl.locations import Location, json_bytes, make_folder, storage_errors
from deltactl.publication import publishable
from deltactl.reading import parse_json
from deltactl.redaction import redact, redacted
from deltactl.staging import clean_staging

Kind = Literal["shards", "features", "tokens", "runs", "reports"]
Unit = TypeVar("Unit")

STAGES = {"shards": "ingest", "features": "featurize", "tokens": "tokenize"}
"""The command that makes an artifact, by its kind."""
HEADER, INDEX, QUARANTINE = "artifact.json", "index.json", "quarantine.jsonl"
HASH_DIGITS = 64
"""Hexadecimal digits of the hashes in an identity (SHA-256)."""
UNWRITTEN: Mapping[str, Any] = {
    "stride": "0.04:1/3",
    "crop_area": "0.6:1",
    "aspect": "0.75:4/3",
    "flip": 0.5,
    "frames_per_step": 1,
    "dtype": "float16",
    "features_dtype": "float16",
}
"""Values that stand in an identity only where they are others: of settings that came after the first artifacts, whose
identities stay what they are."""


def written(**values: Any) -> dict[str, Any]:
    """Return those of some values that an identity names (see `UNWRITTEN`)."""
    return {name: value for name, value in values.items() if value != UNWRITTEN[name]}


# --- the workspace ---------------------------------------------------------------------------------------------------


def workspace() -> Location:
    """Return the folder that artifacts go to unless a path is given: `DELTACTL_HOME`, by default `./workspace`.

    Raises:
        ConfigError: a file is in its place.
    """
    home = os.environ.get("DELTACTL_HOME")
    place = Location.of(home or "workspace")
    if place.is_local and (file := next((each for each in (place.path, *place.path.parents) if each.is_file()), None)):
        what = "DELTACTL_HOME" if home else "the workspace"
        raise ConfigError(f"{what} is {place}, but {file} is a file; expected a folder, there or to be made")
    return place


def default_location(kind: Kind, name: str) -> Location:
    """Return where the workspace keeps the artifact of this kind and name."""
    return workspace() / kind / name


# --- identity and provenance -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """What an artifact was made from. Values are JSON; nested mappings are compared key by key."""

    kind: str
    values: Mapping[str, Any]
    file: str = field(default="identity", compare=False, repr=False)
    """Where it was read, for messages."""
    names: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What people call the values that are hashes, such as a backbone's name; a provenance has them."""

    def text(self, name: str) -> str:
        """Return a value that is text.

        Raises:
            DamagedError: it is absent or something else; names the file.
        """
        return self._fields().text(name)

    def integer(self, name: str) -> int:
        """Return a value that is a whole number.

        Raises:
            DamagedError: it is absent or something else; names the file.
        """
        return self._fields().integer(name)

    @property
    def size(self) -> FrameSize:
        """The frames' size in pixels.

        Raises:
            DamagedError: it is absent or is none; names the file.
        """
        fields = self._fields()
        if "size" not in fields:
            fields.integer("size")
        try:
            return FrameSize.of(fields.values["size"])
        except ValueError as error:
            raise fields.wrong("size", fields.values["size"], "a size of frames, such as 512 or 266x518") from error

    def _fields(self) -> Fields:
        return Fields(dict(self.values), self.file, "identity")

    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(canonical_json({"kind": self.kind, "values": self.values})).hexdigest()

    def differences(self, found: Identity) -> list[str]:
        """Return one phrase for each value in which `found` is not this identity; both values are in it."""
        wanted = _flatten({"kind": self.kind, **self.values})
        there = _flatten({"kind": found.kind, **found.values})
        return [
            f"{key} is {found._told(key, there)} there, {self._told(key, wanted)} here"
            for key in sorted(wanted.keys() | there.keys())
            if wanted.get(key, "absent") != there.get(key, "absent")
        ]

    def _told(self, key: str, flat: Mapping[str, Any]) -> str:
        """Return one of its values for people; a hash by its name too, where that is known."""
        value = str(flat.get(key, _unwritten(key)))
        name = self.names.get(key)
        return hash_told(value, name) if isinstance(name, str) and len(value) == HASH_DIGITS else value


def hash_told(value: str, name: object = None) -> str:
    """Return the beginning of a hash for people, in brackets behind what they call the thing where that is known."""
    beginning = f"{value[:12]}…"
    return f"{name} ({beginning})" if isinstance(name, str) else beginning


@dataclass(frozen=True)
class Header:
    """The content of `artifact.json`."""

    identity: Identity
    provenance: Mapping[str, Any]
    generations: tuple[Mapping[str, Any], ...] = ()
    """What was added since the first, whose identity it is: one entry for each addition (see `generations`)."""


def stable_provenance(libraries: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Return versions and the given facts (device, decoder, batch size): equal for an equal way of working."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"deltactl": __version__, "python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(PackageNotFoundError):
            versions[library] = version(library)
    return {"versions": versions, **redacted(facts)}


def make_provenance(libraries: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Return `stable_provenance` with the command, host and time, which differ from run to run."""
    return {
        **stable_provenance(libraries, **facts),
        # Reports and model cards hold it too, so it is text even where an argument is not UTF-8.
        "command": redact(shlex.join(sys.argv)).encode("utf-8", "backslashreplace").decode(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def provenance_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each fact that differs, leaving out what differs in every run."""
    flat = [
        _flatten({key: value for key, value in each.items() if key not in ("command", "host", "time")})
        for each in (here, there)
    ]
    return [
        f"{key} was {flat[1].get(key, 'absent')}, now {flat[0].get(key, 'absent')}"
        for key in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(key) != flat[1].get(key)
    ]


def open_artifact(root: Location, identity: Identity, provenance: Mapping[str, Any]) -> list[str]:
    """Make `root` the artifact of this identity, or check that it is; return where the provenance there differs.

    Raises:
        ArtifactError: something else lies there.
        IdentityError: an artifact of another identity lies there.
    """
    clean_staging(root)
    header = root / HEADER
    if not header.exists():
        leftovers = root.list()
        if leftovers and HEADER not in leftovers:  # which another process may have written just now
            raise ArtifactError(
                f"{root} holds {leftovers[0]!r} but no {HEADER}, so it is not an artifact of deltactl; "
                "choose another --out, or empty that folder"
            )
        content = {"kind": identity.kind, "identity": dict(identity.values), "provenance": provenance}
        with storage_errors(header, "write"):
            if root.is_local:
                make_folder(root.path)
            header.create_bytes(json_bytes(seal(content), indent=1) + b"\n")
    found = read_header(root)
    check_identity(root, identity, found.identity)
    return provenance_differences(provenance, found.provenance)


def check_identity(root: Location, wanted: Identity, found: Identity) -> None:
    """Check that what was found at `root` is what is wanted there.

    Raises:
        IdentityError: it is not; both values of each difference are in it.
    """
    if differences := wanted.differences(found):
        raise IdentityError(
            f"{root} was made from other inputs: {'; '.join(differences)}; choose another --out, or remove it"
        )


def read_header(root: Location) -> Header:
    """Return what the artifact at `root` is.

    Raises:
        ArtifactError: there is none.
        DamagedError: its header is damaged.
    """
    try:
        content = read_sealed(root / HEADER)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not root.exists():
            raise ArtifactError(f"{root} does not exist; expected an artifact of deltactl") from error
        held = f"it has no {HEADER}" if not root.is_local or root.path.is_dir() else "it is a file"
        raise ArtifactError(f"{root} is not an artifact of deltactl: {held}") from error
    identity, provenance = content.nested("identity").values, content.nested("provenance").values
    generations = content.entries("generations")
    return Header(Identity(content.text("kind"), identity, str(root / HEADER), provenance), provenance, generations)


def command_of(header: Header) -> str:
    """Return the command that makes an artifact: as it was given, where that is known, else the stage's own."""
    return str(header.provenance.get("command", f"deltactl {STAGES.get(header.identity.kind, '')}".rstrip()))


def how_to_end(root: Location) -> str:
    """Return how to end the stage that makes the artifact at `root`."""
    return f"to end it, run: {command_of(read_header(root))}"


def check_replaceable(folder: Location, kind: str) -> None:
    """Check that a folder is absent, empty, or an earlier artifact of this kind, to be replaced.

    Raises:
        ArtifactError: it is something else.
    """
    children = folder.list()
    if not children and not (folder.is_local and folder.path.is_file()):
        return
    if HEADER not in children or read_header(folder).identity.kind != kind:
        raise ArtifactError(f"{folder} holds something other than a {kind}; choose another --out, or empty it")


# --- small files that know when they are damaged ---------------------------------------------------------------------


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping with `sha256`, the hash of its canonical JSON, added."""
    return {**value, "sha256": hashlib.sha256(canonical_json(value)).hexdigest()}


def write_sealed(location: Location, value: Mapping[str, Any]) -> None:
    """Write a JSON file that `read_sealed` can check."""
    location.write_json(seal(value))


def read_sealed(location: Location, remedy: str = "") -> Fields:
    """Return what a sealed JSON file says, without its seal.

    DamagedError, with the `remedy` at its end, where one byte is not as it was written; so do its values where they
    are not what is expected of them.
    """
    return unseal(location.read_whole(remedy), location, remedy)


def unseal(data: bytes, location: Location, remedy: str = "", *, inside: str | None = None) -> Fields:
    """Return what the bytes of a sealed file say, as `read_sealed`; `inside`: the name of the object with the seal."""
    try:
        content = Fields(parse_json(data), location, remedy=remedy)
    except ValueError as error:
        raise DamagedError(f"{location} is damaged: expected JSON ({error}){remedy}") from error
    if inside is not None:
        content = content.nested(inside)
    expected = content.values.pop("sha256", None)
    if expected is None:
        raise DamagedError(f"{location} is damaged: it has no checksum{remedy}")
    if hashlib.sha256(canonical_json(content.values)).hexdigest() != expected:
        raise DamagedError(f"{location} is damaged: its content does not match its checksum{remedy}")
    return content


# --- quarantine, index, parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quarantined:
    """A source or clip that could not be used, why, and the unit it would have been in."""

    source: str
    reason: str
    unit: str

    def to_json(self) -> dict[str, str]:
        """Return the line of `quarantine.jsonl`, which is sealed in and shared with what it belongs to."""
        return {"source": self.source, "reason": publishable(redact(self.reason)), "unit": self.unit}

    @classmethod
    def of(cls, value: Fields) -> Quarantined:
        """Return what `to_json` wrote."""
        return cls(value.text("source"), value.text("reason"), value.text("unit"))


def write_quarantine(root: Location, entries: Iterable[Quarantined]) -> None:
    """Write `quarantine.jsonl`, one line an entry, ordered by unit and source."""
    ordered = sorted(entries, key=lambda entry: (entry.unit, entry.source))
    (root / QUARANTINE).write_bytes(quarantine_bytes(ordered))


def quarantine_bytes(entries: Iterable[Quarantined]) -> bytes:
    """Return the content of `quarantine.jsonl`, in the order of the entries."""
    return b"".join(json_bytes(entry.to_json()) + b"\n" for entry in entries)


def read_quarantine(root: Location) -> list[Quarantined]:
    """Return the entries of `quarantine.jsonl`; none where there is no such file."""
    place, remedy = root / QUARANTINE, "; run the stage again to rebuild it"
    try:
        # `splitlines` would also split at what a name may hold, such as U+2028.
        lines = place.read_whole(remedy).split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                value = parse_json(line)
            except ValueError as error:
                raise DamagedError(f"{place} is damaged: line {number} is not JSON ({error}){remedy}") from error
            entries.append(Quarantined.of(Fields(value, place, f"line {number}", remedy)))
    return entries


def write_index(root: Location, content: Mapping[str, Any]) -> None:
    """Write `index.json`, which is made from the units and lets an artifact be opened by reading one file."""
    (root / INDEX).write_bytes(canonical_json(seal(content)))


def read_index(root: Location) -> Fields:
    """Return the index.

    Raises:
        ArtifactError: the stage has not ended.
        DamagedError: the index is damaged.
    """
    try:
        return read_sealed(root / INDEX)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{root} has no {INDEX}: the stage that makes it has not ended; run it again to complete it"
        ) from error


def part_of(units: Sequence[Unit], part: str | None) -> Sequence[Unit]:
    """Return the I-th of N parts of the units for `"I/N"`, counted from 1; all of them for None."""
    if part is None:
        return units
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is {part!r}; expected I/N with 1 <= I <= N, such as 3/8")
    return units[int(match[1]) - 1 :: int(match[2])]


def _unwritten(key: str) -> Any:
    """Return what an identity means that does not name a key, perhaps a dotted one."""
    *path, name = key.split(".")
    return "absent" if "columns" in path else UNWRITTEN.get(name, "absent")  # the type of a column is always written


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(item))
    return flat
