"""What of a folder goes to the Hub: the files of an artifact, a run or exported weights, without who made them where.

Provenance says everything, for whoever made an artifact: the machine, the command, the places of its inputs. What is
shared says what others can use (`publication`). Of a header `artifact.json` the provenance is cleaned and sealed anew,
and the hash that a store's `index.json` has of it follows; reasons in a quarantine lose their places in the same way.
Data, sidecars' hashes, the groups of a store and every identity stay as they are, byte for byte, so that all that was
made from an artifact still knows it. Of a run the settings and the headers of its checkpoints are cleaned; weights and
the optimizer's state stay. Weights & Biases' files, claims and drafts stay here.

Cleaning what is clean changes nothing: what was pulled is pushed with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from deltactl.artifacts import (
    HEADER,
    INDEX,
    QUARANTINE,
    Identity,
    Quarantined,
    canonical_json,
    quarantine_bytes,
    read_header,
    read_quarantine,
    read_sealed,
    seal,
)
from deltactl.configs.training import RUN_CONFIG
from deltactl.configs.yaml_text import read_yaml, read_yaml_mapping
from deltactl.errors import ArtifactError, ConfigError
from deltactl.featurize.store.dropped import DROPPED
from deltactl.ingest.shards.sidecars import read_sidecar
from deltactl.locations import Location, json_bytes
from deltactl.publication import publishable
from deltactl.train.checkpoints.files import WEIGHT_FILES, load_torch
from deltactl.train.checkpoints.headers import HEADER as NETWORK_HEADER
from deltactl.train.checkpoints.resume_point import FOLDER

Kind = Literal["shards", "features", "tokens", "run", "network"]
CARD = "README.md"
LEFT_HERE = frozenset({CARD, "wandb", "wandb-id.txt"})
"""Names at the top that are not shared; the card is written anew."""
LARGEST_TEXT = 1 << 20
TEXTS = (".json", ".jsonl", ".yaml", ".csv", ".md", ".html")
Clean = Callable[[Path, Path], None]
"""Takes a file, and where to write what is to be sent of it."""


@dataclass(frozen=True)
class Item:
    """A file as it will lie in the repository."""

    path: str
    size: int
    """Bytes here; a cleaned checkpoint may have a few less."""
    source: Path | bytes
    clean: Clean | None = None
    """Writes what is sent in place of a file too large for the memory."""


def kind_of(names: set[str], header_kind: Callable[[], str]) -> Kind | None:
    """Return what a folder or a repository with these paths in it is; None for what is not shared.

    `header_kind` reads what the header says, where there is one.
    """
    if HEADER in names:
        kind = header_kind()
        return kind if kind in ("shards", "features", "tokens") else None  # type: ignore[return-value]
    if any(name.startswith(f"{FOLDER}/") for name in names):
        return "run"
    return "network" if names & set(WEIGHT_FILES) else None


def kind_of_folder(root: Location) -> Kind:
    """Return what lies here.

    Raises:
        ArtifactError: it is nothing that is shared, or not there.
        ConfigError: it is not on a disk.
    """
    if not root.is_local:
        raise ConfigError(f"{root} is not on a disk, from which files are sent; copy it to one, and name that")
    if not root.path.is_dir():
        held = "is a file" if root.exists() else "does not exist"
        raise ArtifactError(f"{root} {held}; expected the folder of shards, a store, a run, or of an export")
    names = {*root.list(), *(f"{FOLDER}/{name}" for name in (root / FOLDER).list())}
    kind = kind_of(names, lambda: read_header(root).identity.kind)
    if kind is None:
        raise ArtifactError(
            f"{root} holds {', '.join(sorted(names)[:3]) or 'nothing'}; expected shards, features, tokens, a run, or "
            f"exported weights ({' or '.join(WEIGHT_FILES)})"
        )
    return kind


def identity_of(root: Location) -> Identity:
    """Return what an artifact was made from."""
    return read_header(root).identity


def items_of(root: Location, kind: Kind) -> list[Item]:
    """Return the files of a folder as they are sent, without its card, ordered by path.

    Raises:
        ArtifactError, CheckpointError: a file of it is damaged.
    """
    cleaned = dict(_cleaned(root, kind))
    items = []
    for path in _files(root.path):
        name = path.relative_to(root.path).as_posix()
        if name in cleaned:
            items.append(Item(name, len(cleaned[name]), cleaned[name]))
        elif kind == "run" and path.suffix in (".ckpt", ".bin"):
            items.append(Item(name, path.stat().st_size, path, _clean_checkpoint))
        else:
            items.append(Item(name, path.stat().st_size, path))
    return items


def _files(root: Path) -> Iterator[Path]:
    """Yield the files that are shared: nothing hidden, and nothing of `LEFT_HERE`."""
    pending = [path for path in root.iterdir() if path.name not in LEFT_HERE]
    found = []
    while pending:
        path = pending.pop()
        if path.name.startswith("."):
            continue
        if path.is_dir():
            pending += path.iterdir()
        else:
            found.append(path)
    yield from sorted(found)


# --- cleaning --------------------------------------------------------------------------------------------------------


def _cleaned(root: Location, kind: Kind) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each small file whose content is not sent as it is."""
    if kind == "run":
        yield from _cleaned_run(root)
    if kind in ("run", "network"):
        return
    header = clean_header(root / HEADER)
    yield HEADER, header
    entries = read_quarantine(root) if (root / QUARANTINE).exists() else []
    quarantine = quarantine_bytes(publishable_reasons(entry) for entry in entries)
    if (root / QUARANTINE).exists():
        yield QUARANTINE, quarantine
    if kind == "shards":
        for name in root.list():
            if re.fullmatch(r"\d{6,}\.json", name):
                yield name, _clean_sidecar(root, name)
        return
    if (root / DROPPED).exists():
        said = read_sealed(root / DROPPED).values
        yield DROPPED, json_bytes(seal(publishable(said)), indent=1) + b"\n"
    if (root / INDEX).exists():
        index = read_sealed(root / INDEX).values
        new = {HEADER: header, QUARANTINE: quarantine}
        files = {
            name: hashlib.sha256(new[name]).hexdigest() if name in new else sha256
            for name, sha256 in index.get("files", {}).items()
        }
        yield INDEX, canonical_json(seal({**index, "files": files} if "files" in index else index))


def clean_header(place: Location) -> bytes:
    """Return a header `artifact.json` with what may be shared of its provenance, sealed anew."""
    content = read_sealed(place).values
    cleaned = {name: publishable(value) if name == "provenance" else value for name, value in content.items()}
    return json_bytes(seal(cleaned), indent=1) + b"\n"


def publishable_reasons(entry: Quarantined) -> Quarantined:
    """Return an entry of a quarantine without places in its reason."""
    return Quarantined(entry.source, publishable(entry.reason), entry.unit)


def _clean_sidecar(root: Location, name: str) -> bytes:
    place = root / name
    read_sidecar(root, name.removesuffix(".json"))  # names what is damaged
    content = read_sealed(place).values
    entries = [{**entry, "reason": publishable(entry["reason"])} for entry in content.get("quarantined", ())]
    if entries == content.get("quarantined", []):
        return place.read_bytes()
    return canonical_json(seal({**content, "quarantined": entries}))


def _cleaned_run(root: Location) -> Iterator[tuple[str, bytes]]:
    if (root / RUN_CONFIG).exists():
        yield RUN_CONFIG, clean_settings((root / RUN_CONFIG).read_bytes(), str(root / RUN_CONFIG))
    if (root / "provenance.json").exists():
        starts = (root / "provenance.json").read_json()
        yield "provenance.json", json_bytes(publishable(starts), indent=1) + b"\n"
    # Reports of evaluations during training are artifacts of their own.
    for path in _files(root.path):
        name = path.relative_to(root.path).as_posix()
        if path.name == HEADER:
            yield name, clean_header(root / name)
        elif path.name == QUARANTINE:
            entries = read_quarantine((root / name).parent)
            yield name, quarantine_bytes(publishable_reasons(entry) for entry in entries)


def clean_settings(content: bytes, name: str) -> bytes:
    """Return the settings of a run with the last names of places, and the explanations where they can be kept."""
    before = read_yaml_mapping(content, name)
    wanted = _clean_values(before)
    if wanted == before:
        return content
    text = content.decode()
    for place in _places(before):
        new = json.dumps(publishable(place), ensure_ascii=False)
        for written in (json.dumps(place, ensure_ascii=False), json.dumps(place), f"'{place}'", place):
            text = re.sub(rf"(?m)(?<=[ \[]){re.escape(written)}(?=$|:|,|\])", new.replace("\\", r"\\"), text)
    try:
        if read_yaml(text, name) == wanted:
            return text.encode()
    except ConfigError:
        pass
    return json_bytes(wanted, indent=1) + b"\n"  # JSON is YAML


def _clean_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {publishable(name): _clean_values(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean_values(item) for item in value]
    return publishable(value)


def _places(value: Any) -> Iterator[str]:
    """Yield the texts of settings that change when they are cleaned, names of settings among them."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _places(name)
            yield from _places(item)
    elif isinstance(value, list):
        for item in value:
            yield from _places(item)
    elif isinstance(value, str) and publishable(value) != value:
        yield value


def _clean_checkpoint(source: Path, target: Path) -> None:
    """Write a checkpoint with a header that may be shared; weights and the rest of its state are as they were."""
    content = load_torch(source, str(source), mmap=True)
    header = content.get(NETWORK_HEADER) if isinstance(content, Mapping) else None
    if isinstance(header, Mapping):
        content = {**content, NETWORK_HEADER: publishable(header)}
    torch.save(content, target)


# --- the last look ---------------------------------------------------------------------------------------------------


def check_private(root: Location, items: Sequence[Item]) -> None:
    """Check that no small text that is sent names this home folder, or the places in the header's provenance.

    Raises:
        ArtifactError: one does.
    """
    words = {str(Path.home())} - {"/", "/root"}
    if (root / HEADER).exists():
        words |= {
            place for place in _places(dict(read_header(root).provenance)) if re.fullmatch(r"/[^/\s]+/\S+", place)
        }
    for item in items:
        if item.clean is not None or item.size > LARGEST_TEXT or not item.path.endswith(TEXTS):
            continue
        data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
        for word in sorted(words):
            if word.encode() in data:
                raise ArtifactError(
                    f"{root / item.path} holds the local path {word}, which sharing would tell; nothing was sent. Make "
                    "it again with this version (a reason in a store's quarantine cannot be cleaned afterwards)"
                )
