"""The first step of the pipeline: reads the clips of jobs from their shards, while their bytes are checked.

What reads clips is a `ClipReader`; `read_videos` has the other one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from deltactl.errors import DamagedError
from deltactl.featurize.pipeline.events import Closed, Failed, Job, Opened, RawClip, ShardEvent
from deltactl.ingest.shards.format import ShardSet


@runtime_checkable
class ClipReader(Protocol):
    """Reads the clips of jobs; picklable before `start`."""

    @property
    def part(self) -> str:
        """What it does, as summaries call this part of the work."""

    @property
    def decodes(self) -> bool:
        """Whether frames come decoded."""

    def start(self, threads: int) -> None:
        """Prepare to read; where decoding is a part of it, with so many processes."""

    def read(self, jobs: Iterable[Job]) -> Generator[ShardEvent, None, None]:
        """Yield the events of each job, not always in order; a job is drawn when its clips are about to be read."""

    def close(self) -> None:
        """End what `start` began."""


@dataclass(frozen=True)
class ShardReader:
    """Reads shards."""

    shards: ShardSet
    part = "reading"
    decodes = False

    def start(self, threads: int) -> None:
        """Do nothing."""

    def read(self, jobs: Iterable[Job]) -> Generator[ShardEvent, None, None]:
        """Yield the events of each job, in order."""
        return read_clips(self.shards, jobs)

    def close(self) -> None:
        """Do nothing."""


def read_clips(shards: ShardSet, jobs: Iterable[Job]) -> Generator[ShardEvent, None, None]:
    """Yield the clips of each job as they lie in its shard; a job is drawn when its shard is about to be read.

    Whether a tar matches its checksum is known when its last byte was read: then its job ends in `Failed`.
    """
    for job in jobs:
        try:
            sidecar = shards.sidecar(job.unit)
            yield Opened(job, sidecar.keys, shards.source_names(sidecar), sidecar.tar_sha256)
            for row, clip in enumerate(shards.stream(job.unit)):
                yield RawClip(job, row, clip)
            yield Closed()
        except DamagedError as error:
            yield Failed(job, str(error).removeprefix(f"{shards.root}/"))


def raw_bytes(event: ShardEvent) -> int:
    """Return what an event holds of the memory: the files of its frames."""
    return sum(map(len, event.clip.frames)) if isinstance(event, RawClip) else 0
