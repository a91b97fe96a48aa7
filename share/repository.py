"""One repository of the Hub: what is in it, files to it in commits that can be gone on with, files from it.

A name is `owner/name`, with `datasets/` or `models/` in front where both are there, and a revision behind it. All that
the Hub's client raises becomes a sentence. Nothing is printed, and no token is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deltactl import __version__
from deltactl.artifacts import HEADER, Identity, unseal
from deltactl.errors import ArtifactError, ConfigError, HubError
from deltactl.featurize.backbones.hub import hub_errors
from deltactl.locations import Location, storage_errors
from deltactl.share.contents import CARD, Item, Kind, kind_of

Type = Literal["dataset", "model"]
TYPES: tuple[Type, ...] = ("dataset", "model")
TYPE_OF: dict[Kind, Type] = {
    "shards": "dataset",
    "features": "dataset",
    "tokens": "dataset",
    "run": "model",
    "network": "model",
}
NAME = re.compile(r"(?:(datasets|models)/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
OF_THE_HUB = frozenset({".gitattributes", CARD})
"""Files that a repository has beside what lies in it."""
FILES_A_COMMIT = 200
BYTES_A_COMMIT = 4 << 30
"""A push that is stopped has to send again what its last commit did not hold yet; files that arrived count."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository."""

    size: int
    sha256: str | None
    """Of a large file; the Hub keeps the hash of git for others."""
    blob: str


@dataclass(frozen=True)
class Repository:
    """A repository at a revision; build it with `of`."""

    name: str
    type: Type
    revision: str | None = None
    _api: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, revision: str | None) -> tuple[str, Sequence[Type], str | None]:
        """Return the name, the types that it may have, and the revision that a text names.

        Raises:
            ConfigError: it is no name, or names another revision than the option.
        """
        match = NAME.fullmatch(text.removeprefix("hf://"))
        if not match:
            raise ConfigError(
                f"{text!r} is no repository of the Hub; expected owner/name, such as me/kinetics-tokens "
                "(or datasets/owner/name, models/owner/name)"
            )
        if match[3] and revision and match[3] != revision:
            raise ConfigError(f"{text} and --revision {revision} name two revisions; leave one of them out")
        types: Sequence[Type] = TYPES if match[1] is None else (match[1].removesuffix("s"),)  # type: ignore[assignment]
        return match[2], types, match[3] or revision

    @classmethod
    def of(cls, name: str, type: Type, revision: str | None) -> Repository:
        """Return the repository; nothing is asked yet."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # ours are shown
        return cls(name, type, revision, HfApi(library_name="deltactl", library_version=__version__))

    @property
    def address(self) -> str:
        """Where people find it."""
        return f"{self._api.endpoint}/{'datasets/' if self.type == 'dataset' else ''}{self.name}"

    # --- looking -----------------------------------------------------------------------------------------------------

    def commit(self) -> str | None:
        """Return the commit of the revision; None where the repository or the revision is not there.

        Raises:
            HubError: it is gated, or the Hub does not answer.
        """
        from huggingface_hub import errors as hub

        with self._errors("looked at"):
            try:
                found = self._api.repo_info(self.name, repo_type=self.type, revision=self.revision)
            except hub.GatedRepoError:
                raise
            except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
                return None
        return str(found.sha)

    def is_private(self) -> bool:
        """Whether only its owners see it."""
        with self._errors("looked at"):
            return bool(self._api.repo_info(self.name, repo_type=self.type).private)

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """Return the files of a commit by path."""
        with self._errors("looked at"):
            tree = self._api.list_repo_tree(self.name, repo_type=self.type, revision=commit, recursive=True)
            return {
                each.path: RemoteFile(each.size, None if each.lfs is None else each.lfs.sha256, each.blob_id)
                for each in tree
                if hasattr(each, "blob_id")  # a file, and no folder
            }

    def read(self, path: str, commit: str) -> bytes:
        """Return a small file."""
        with self._errors("fetched"), tempfile.TemporaryDirectory(prefix="deltactl-") as folder:
            place = self._api.hf_hub_download(self.name, path, repo_type=self.type, revision=commit, local_dir=folder)
            return Path(place).read_bytes()

    def identity(self, commit: str) -> Identity:
        """Return the identity of the artifact in it.

        Raises:
            DamagedError: its header is damaged.
        """
        place = Location(f"{self.name}/{HEADER}")
        content = unseal(self.read(HEADER, commit), place)
        return Identity(content.text("kind"), content.nested("identity").values, str(place))

    def kind(self, files: dict[str, RemoteFile], commit: str) -> Kind | None:
        """Return what is in it; None for what is not of deltactl."""
        return kind_of(set(files), lambda: self.identity(commit).kind)

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, *, public: bool) -> None:
        """Make the repository and the branch where they are not there.

        Raises:
            HubError: nobody is logged in, or this account may not.
        """
        from huggingface_hub import get_token

        if get_token() is None:
            raise HubError(
                f"nothing can be sent to {self.name}: nobody is logged in to the Hub here; run `hf auth login` with a "
                "token that may write, or set HF_TOKEN"
            )
        with self._errors("made"):
            self._api.create_repo(self.name, repo_type=self.type, private=not public, exist_ok=True)
            if self.revision is not None:
                self._api.create_branch(self.name, branch=self.revision, repo_type=self.type, exist_ok=True)

    def send(self, items: Sequence[Item], message: str, advance: Callable[[int], None]) -> None:
        """Send files in commits of a limited size; what the repository has already is not sent again."""
        from huggingface_hub import CommitOperationAdd

        for batch in batches(items):
            with (
                self._errors("sent"),
                storage_errors(Path(tempfile.gettempdir()), "write"),
                tempfile.TemporaryDirectory(prefix="deltactl-") as folder,
            ):
                operations = []
                for number, item in enumerate(batch):
                    source = item.source
                    if item.clean is not None and isinstance(source, Path):
                        # The name counts: torch writes it into its archives.
                        cleaned = Path(folder) / str(number) / source.name
                        cleaned.parent.mkdir()
                        item.clean(source, cleaned)
                        source = cleaned
                    operations.append(CommitOperationAdd(item.path, source))
                self._commit(operations, message)
            advance(sum(item.size for item in batch))

    def remove(self, paths: Sequence[str], message: str) -> None:
        """Take files out of the revision; its history keeps them."""
        from huggingface_hub import CommitOperationDelete

        if paths:
            with self._errors("sent"):
                self._commit([CommitOperationDelete(path) for path in paths], message)

    def _commit(self, operations: Sequence[Any], message: str) -> None:
        import logging

        # It warns of commits that would change nothing, which is how a push that is given again begins.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self._api.create_commit(
            self.name, operations, commit_message=message, repo_type=self.type, revision=self.revision
        )

    # --- fetching ----------------------------------------------------------------------------------------------------

    def fetch(self, commit: str, folder: Path) -> None:
        """Fetch a commit into a folder; files that are there whole, from this commit, are not fetched again.

        Raises:
            HubError: the connection broke; what arrived is kept.
            StorageError: the disk is full.
        """
        from huggingface_hub import snapshot_download

        with self._errors("fetched"):
            snapshot_download(
                self.name,
                repo_type=self.type,
                revision=commit,
                local_dir=folder,
                ignore_patterns=[".gitattributes"],
                library_name="deltactl",
                library_version=__version__,
            )

    def _errors(self, verb: str) -> AbstractContextManager[None]:
        """Turn the client's exceptions into sentences; `verb` is what was being done."""
        behind = f"@{self.revision}" if self.revision else ""
        absent = (
            f"the Hub has no {self.type} {self.name}{behind} that this account may see; check the spelling, and for a "
            "private one run `hf auth login`"
        )
        remedy = "run the same command again where there is a network, what is there already is kept"
        return hub_errors(f"{self.name}{behind}", absent, f"{self.name}{behind} cannot be {verb}:", remedy)


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the files of each commit, in order."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == FILES_A_COMMIT or sum(each.size for each in batch) + item.size > BYTES_A_COMMIT):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def find(text: str, revision: str | None) -> tuple[Repository, str, dict[str, RemoteFile], Kind]:
    """Return the repository of deltactl's that a name stands for, its commit, its files, and what it is.

    Raises:
        ArtifactError: it holds something else.
        ConfigError: it is no name, or both a data set and a model have it.
        HubError: there is none, it is gated, or the Hub does not answer.
    """
    name, types, revision = Repository.parse(text, revision)
    found, others = [], []
    for type_ in types:
        repository = Repository.of(name, type_, revision)
        if (commit := repository.commit()) is None:
            continue
        files = repository.files(commit)
        kind = repository.kind(files, commit)
        if kind is None:
            others.append(f"{type_} with {', '.join(sorted(files.keys() - OF_THE_HUB)[:3]) or 'nothing'}")
        else:
            found.append((repository, commit, files, kind))
    if len(found) > 1:
        raise ConfigError(f"{name} is a data set and a model; name datasets/{name} or models/{name}")
    if found:
        return found[0]
    if others:
        raise ArtifactError(
            f"{name} on the Hub is a {' and a '.join(others)} in it, and nothing that deltactl shares; expected "
            "shards, features, tokens, a run or exported weights"
        )
    behind = f" at revision {revision}" if revision else ""
    raise HubError(
        f"{name} is no repository on the Hub{behind} that this account may see; check the spelling, and for a private "
        "one run `hf auth login`"
    )
