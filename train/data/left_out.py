"""The clips that a run leaves out: keys in a text file, one a line, as `deltactl curate` writes them (`--where`).

Takes the file, returns a set of keys and a hash of it. What is left out neither trains nor validates; the order of the
others is drawn from the seed as ever, by arithmetic alone. The hash is part of what a run has read: it goes on with the
same list only, wherever the file lies and however its lines are ordered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltactl.errors import ConfigError
from deltactl.ingest.shards.clip_index import ClipIndex
from deltactl.progress import counted
from deltactl.reading import LIST, read_file, reason_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftOut:
    """Keys of clips."""

    keys: frozenset[str] = frozenset()

    @classmethod
    def read(cls, file: str | None) -> LeftOut:
        """Return the keys that a file lists; lines that begin with `#` are comments. None: no keys.

        Raises:
            ConfigError: it cannot be read, or names nothing.
        """
        if file is None:
            return cls()
        try:
            lines = read_file(Path(file).expanduser(), LIST).decode("utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"--where {file} {reason_of(error)}; expected a list of clips' keys") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--where {file} is not text: {error}; expected a list of clips' keys") from error
        keys = frozenset(key for line in lines if (key := line.strip()) and not key.startswith("#"))
        if not keys:
            raise ConfigError(f"--where {file} names no clip; leave it out")
        return cls(keys)

    @property
    def digest(self) -> str | None:
        """Hash of the keys; None where there are none."""
        if not self.keys:
            return None
        return hashlib.sha256("".join(f"{key}\n" for key in sorted(self.keys)).encode()).hexdigest()

    def check(self, file: str | None, sets: Sequence[ClipIndex]) -> None:
        """Check that the keys are those of these sets, and warn of those that are not.

        Raises:
            ConfigError: none is.
        """
        if not self.keys:
            return
        there = {key for each in sets for key in _keys(each)}
        absent = self.keys - there
        where = " and ".join(str(each.root) for each in sets)
        if len(absent) == len(self.keys):
            raise ConfigError(
                f"--where {file} names none of the clips of {where}: {min(absent)} is not there; name a list that "
                "deltactl curate made of these clips"
            )
        if absent:
            log.warning("%s of %s are not among those of %s", counted(len(absent), "clips"), file, where)


def _keys(index: ClipIndex) -> Iterable[str]:
    for unit in index.units:
        yield from index.keys_of(unit)
