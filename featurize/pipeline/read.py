"""The first step of the pipeline: reads the clips of jobs from their shards, while their bytes are checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deltactl.errors import DamagedError
from deltactl.featurize.pipeline.events import Closed, Failed, Job, Opened, RawClip, ShardEvent
from deltactl.ingest.shards.format import ShardSet


def read_clips(shards: ShardSet, jobs: Iterable[Job]) -> Iterator[ShardEvent]:
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
