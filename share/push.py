"""Sends an artifact, a run or exported weights to a repository on the Hub, with a card; again after a stop, it goes on.

What is here is verified first, byte by byte: nothing damaged or unfinished is shared. The repository must be new, or
empty, or hold an earlier state of the same thing. What says what it is goes first, data next, and last the index that
says that all of it is there, so that a push that was stopped is known from one that ended. A push makes the repository
what the folder is; what it held before stays in its history.

Costs one read of everything to verify, one to hash, and the upload; what arrived is not sent again.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deltactl.artifacts import HEADER, INDEX, check_identity
from deltactl.configs.training import RUN_CONFIG
from deltactl.errors import ConfigError, DamagedError, IdentityError
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.progress import Progress
from deltactl.publication import publishable
from deltactl.reading import parse_json
from deltactl.share.card import Results, artifact_card, read_report, run_card
from deltactl.share.contents import CARD, Item, Kind, check_private, identity_of, items_of, kind_of_folder
from deltactl.share.repository import OF_THE_HUB, TYPE_OF, RemoteFile, Repository
from deltactl.train.checkpoints.card import model_card
from deltactl.train.checkpoints.export import write_weights
from deltactl.train.checkpoints.files import CONFIG_FILE
from deltactl.train.checkpoints.loading import read
from deltactl.train.checkpoints.pretrained import in_memory
from deltactl.train.checkpoints.verify import verify_run

log = logging.getLogger(__name__)

MOST_FILES = 100_000
PROVENANCE = "provenance.json"
FIRST = (HEADER, RUN_CONFIG, PROVENANCE, CONFIG_FILE, CARD)
"""What says what a repository holds, and is sent first."""


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with `dry_run` would do."""

    kind: Kind
    address: str
    files: int
    bytes: int
    private: bool | None
    """Whether only its owners see the repository; None where it was not asked."""
    removed: tuple[str, ...]
    """Files that the repository held and the folder does not."""
    card: str
    seconds: float


def push(
    place: str | Path | Location,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    reports: Sequence[str] = (),
    licence: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Make the repository `repo` what the folder at `place` is.

    `reports` are folders of reports whose numbers the card gets; `licence` is the identifier of the licence that it
    names, as the Hub knows them. With `dry_run` nothing is asked of the Hub.

    Raises:
        ArtifactError, DamagedError, CheckpointError: it is nothing that is shared, damaged, or unfinished.
        ConfigError, IdentityError: the repository holds something else.
        HubError: the Hub refuses, or does not answer; what was sent stays.
    """
    started = time.monotonic()
    root = Location.of(place)
    kind = kind_of_folder(root)
    results = [read_report(report) for report in reports]
    name, types, revision = Repository.parse(repo, revision)
    if TYPE_OF[kind] not in types:
        raise ConfigError(f"{root} holds {kind}, which go to a {TYPE_OF[kind]} repository, not a {types[0]}: {repo}")
    repository = Repository.of(name, TYPE_OF[kind], revision)
    verify(root, kind)
    items = items_of(root, kind)
    card = _card(root, kind, name, items, results, licence)
    items = in_order([Item(CARD, len(card.encode()), card.encode()), *items])
    check_private(root, items)
    size = sum(item.size for item in items)
    if len(items) > MOST_FILES:
        log.warning(
            "%s has %s files, more than the %s that the Hub advises for a repository; share fewer views, or tokens",
            *(root, f"{len(items):,}", f"{MOST_FILES:,}"),
        )
    private: bool | None = None
    removed: tuple[str, ...] = ()
    if not dry_run:
        removed = send(repository, root, kind, items, public=public)
        private = repository.is_private()
    return Pushed(kind, repository.address, len(items), size, private, removed, card, time.monotonic() - started)


def push_network(network: nn.Module, repo: str, *, public: bool, revision: str | None) -> str:
    """Send a network in memory as its export; see `Network.push_to_hub`."""
    checkpoint = in_memory(network)
    with tempfile.TemporaryDirectory(prefix="deltactl-") as folder:
        write_weights(checkpoint, Location.of(folder) / "network", checkpoint.provenance)
        return push(Path(folder) / "network", repo, public=public, revision=revision).address


def verify(root: Location, kind: Kind) -> None:
    """Read everything, as `deltactl verify` does; of exported weights, as loading does.

    Raises:
        DamagedError: data are damaged, missing, or not made yet.
        CheckpointError: weights are damaged.
    """
    if kind == "network":
        read(root)
        return
    findings = [finding for finding in Verification.of(root, verify_run).run() if finding.harmful]
    if findings:
        more = f" and {len(findings) - 1:,} more" if len(findings) > 1 else ""
        raise DamagedError(f"{root} is not whole: {findings[0]}{more}; see deltactl verify {root}")


def send(repository: Repository, root: Location, kind: Kind, items: list[Item], *, public: bool) -> tuple[str, ...]:
    """Send the files and take away what is no longer there; return the paths of the latter."""
    commit = repository.commit()
    there: Mapping[str, RemoteFile] = {}
    if commit is not None:
        there = repository.files(commit)
        check_same(repository, commit, there, root, kind, items)
    repository.create(public=public)
    if commit is None and (made := repository.commit()) is not None:  # a new branch has the files of the main one
        there = repository.files(made)
        check_same(repository, made, there, root, kind, items)
    message = f"deltactl push: {kind}"
    paths = {item.path for item in items}
    with Progress(sum(item.size for item in items), unit="bytes", label="push") as progress:
        first = [item for item in items if item.path in FIRST]
        last = [item for item in items if item.path == INDEX]
        rest = [item for item in items if item not in first and item not in last]
        for part in (first, rest, last):
            repository.send(part, message, progress.advance)
    removed = tuple(sorted(set(there) - paths - OF_THE_HUB))
    repository.remove(removed, f"{message}, what is no longer there")
    return removed


def in_order(items: Sequence[Item]) -> list[Item]:
    """Return the files as they are sent: what says what it is first, the index last."""
    return sorted(items, key=lambda item: (item.path == INDEX, item.path not in FIRST, item.path))


def check_same(
    repository: Repository,
    commit: str,
    there: Mapping[str, RemoteFile],
    root: Location,
    kind: Kind,
    items: Sequence[Item],
) -> None:
    """Check that a repository is empty, or holds an earlier state of what is to be sent.

    Raises:
        ConfigError: it holds something else.
        IdentityError: it holds another artifact, run or network of this kind.
    """
    others = sorted(set(there) - OF_THE_HUB)
    if not others:
        return
    name = repository.name
    found = repository.kind(dict(there), commit)
    if found is None and set(others) <= {item.path for item in items}:
        return  # a push that was stopped before it came to what tells the kind
    if found != kind:
        held = f"holds {found}" if found else f"holds {others[0]!r}, which deltactl did not put there"
        raise ConfigError(f"{name} on the Hub {held}; nothing is overwritten: name a new or empty repository")
    if kind in ("shards", "features", "tokens"):
        check_identity(Location(name), identity_of(root), repository.identity(commit))
    elif kind == "run" and PROVENANCE in there:
        starts = _json_of(repository.read(PROVENANCE, commit)), _json_of(_content(items, PROVENANCE))
        if starts[0][:1] != starts[1][:1]:
            raise IdentityError(f"{name} on the Hub holds another run; name a new or empty repository")
    elif kind == "network" and CONFIG_FILE in there:
        kinds = [_kind_said(data) for data in (repository.read(CONFIG_FILE, commit), _content(items, CONFIG_FILE))]
        if kinds[0] != kinds[1]:
            raise IdentityError(
                f"{name} on the Hub holds a network of kind {kinds[0]!r}, not {kinds[1]!r}; name a new or empty one"
            )


def _content(items: Sequence[Item], path: str) -> bytes:
    source = next((item.source for item in items if item.path == path), b"null")
    return source if isinstance(source, bytes) else source.read_bytes()


def _json_of(data: bytes) -> Any:
    value = parse_json(data)
    return value if isinstance(value, list) else [value]


def _kind_said(data: bytes) -> object:
    content = parse_json(data)
    header = content.get("deltactl") if isinstance(content, Mapping) else None
    return header.get("kind") if isinstance(header, Mapping) else None


def _own_card(root: Location, kind: Kind) -> str | None:
    """Return the card in the folder; None where there is none, or the one that an export wrote."""
    place = root / CARD
    if not place.exists():
        return None
    text = place.read_bytes().decode("utf-8", "replace")
    if kind == "network":
        checkpoint = read(root)
        if text == model_card(checkpoint, root.name, checkpoint.provenance):
            return None
    return text


def _card(
    root: Location, kind: Kind, name: str, items: Sequence[Item], results: Sequence[Results], licence: str | None
) -> str:
    """Return the text of the repository's card: the folder's own, if somebody wrote one, or one that is made.

    Raises:
        ConfigError: the folder's own is to have numbers or a licence.
    """
    if (own := _own_card(root, kind)) is not None:
        if results or licence is not None:
            raise ConfigError(
                f"{root / CARD} is sent as it is, so --report and --licence have no effect; leave them out, or take "
                "that file away"
            )
        return own
    if kind in ("shards", "features", "tokens"):
        return artifact_card(root, name, items, results, licence)
    checkpoint = read(root)
    if kind == "run":
        return run_card(checkpoint, root, name, items, results, licence)
    provenance = publishable({**checkpoint.provenance, **checkpoint.contents.progress})
    tables = "".join(each.section() for each in results)
    return model_card(checkpoint, name, provenance, results=tables, licence=licence)
