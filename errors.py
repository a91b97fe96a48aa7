"""Every exception that a user can meet, in one tree.

    DeltactlError                 one line on stderr, exit code 1
    ├── ConfigError               an option, preset or setting that cannot be used
    ├── MissingExtraError         an optional library is not installed
    ├── HubError                  a model that the Hub does not hand out
    ├── CheckpointError           weights that cannot be read or do not fit
    ├── ArtifactError             shards, a store, tokens or a run that cannot be used
    │   ├── IdentityError         it was made from other inputs than the ones asked for
    │   ├── ClaimedError          another process writes there
    │   └── DamagedError          bytes that are missing or do not match their checksum
    ├── SourceError               a video, frame or label that cannot be read (quarantined, not fatal)
    ├── TooManyBadError           more sources than `--max-bad` allows could not be read
    ├── TrainingError             a loss that is no longer finite, memory that is full, processes that lost each other
    ├── StorageError              a disk that is full, a folder that is not writable, a store that is down
    ├── MemoryFullError           this machine's memory, or a limit on it, is used up
    └── WorkerError               a worker process that failed
        ├── WorkerStartError      it could not be started: no memory, too many processes
        ├── WorkerDiedError       it was killed or crashed
        └── WorkerTimeoutError    it did not finish in time

    KeyboardInterrupt
    └── StoppedError              a signal asked this process to end: exit code 128 and the signal's number

A message names the thing and its value, says what was expected, and what to do. Misuse of the Python API is a
`ValueError` or `TypeError` instead; what cannot be is an `assert`. Foreign exceptions are mapped to these at the
place where the foreign call is made.
"""

from __future__ import annotations

import signal


class DeltactlError(Exception):
    """Base of all errors that are reported as one line."""

    exit_code = 1


class ConfigError(DeltactlError):
    """An option, preset or setting that is unknown, out of range, or clashes with another."""


class MissingExtraError(DeltactlError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed; run: pip install 'deltactl[{extra}]'")


class HubError(DeltactlError):
    """The Hugging Face Hub does not hand out a model: no such name, no network, or a licence not accepted."""


class CheckpointError(DeltactlError):
    """Weights that cannot be read, carry code, or do not fit the network."""


class ArtifactError(DeltactlError):
    """Shards, a feature store, tokens or a run that cannot be used."""


class IdentityError(ArtifactError):
    """An artifact was made from other inputs or settings than the ones asked for."""


class ClaimedError(ArtifactError):
    """Another process that is alive writes to the artifact, run or report."""


class DamagedError(ArtifactError):
    """Bytes are missing or do not match their checksum."""


class SourceError(DeltactlError):
    """One video, frame or label cannot be read. Stages quarantine it and go on."""


class TooManyBadError(DeltactlError):
    """More sources than `--max-bad` allows could not be read; what was written is kept."""


class TrainingError(DeltactlError):
    """Training cannot go on: its loss is not finite, memory is full, or its processes lost each other.

    The checkpoints before it are whole.
    """


class StorageError(DeltactlError):
    """A disk is full, a folder is not writable, or an object store stays down."""


class MemoryFullError(DeltactlError):
    """This machine's memory, or a limit on it, is used up."""


class WorkerError(DeltactlError):
    """A worker process failed."""


class WorkerStartError(WorkerError):
    """A worker process could not be started, or ended before it began: this machine has none to give."""


class WorkerDiedError(WorkerError):
    """A worker process was killed or crashed in the middle of a task."""


class WorkerTimeoutError(WorkerError):
    """A worker process did not finish a task in time, and was ended."""


STOPPED_CODE = 128
"""What shells add to a signal's number to make the exit code of a program that it ended."""


class StoppedError(KeyboardInterrupt, SystemExit):
    """A signal asked this process to end.

    Everything that cleans up after Ctrl-C does so after this; a program that does not catch it ends with the code that
    a shell gives to one that the signal ended.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.code = STOPPED_CODE + number
        self.number = number
        """The signal's number, such as 15 for SIGTERM."""
