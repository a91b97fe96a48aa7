"""Shards to groups of a store: reading, decoding, the backbone and writing, each ahead of the next.

    read (thread)  →  decode (threads)  →  backbone (thread)  →  write (here)
    tar, hashed       uint8 crops          float16 features       published groups

A job is one view of one shard; it makes one group. Events flow through bounded queues, in order, across jobs, so that
the slowest stage alone sets the pace. What cannot be used is named: a tar that does not match its checksum, which is
known when its last byte was read, fails its job before anything of it is published; an undecodable frame or features
beyond float16 quarantine their clip; everything else goes on. Where a GPU's memory runs full, batches get smaller and
the job begins anew, so that all batches of a group are of one size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import torch
from torch import Tensor

from deltactl.artifacts import Identity, Quarantined, stable_provenance
from deltactl.errors import DamagedError
from deltactl.featurize.background import Background, read_ahead
from deltactl.featurize.batches import Batcher
from deltactl.featurize.compute import Computer, Result
from deltactl.featurize.decode import ClipDecoder
from deltactl.featurize.decode_dali import CALL_CLIPS, DaliClipDecoder
from deltactl.featurize.events import (
    Closed,
    ComputedEvent,
    DecodedEvent,
    Failed,
    Job,
    JobResult,
    Opened,
    RawClip,
    ShardEvent,
)
from deltactl.featurize.fill import GroupFill, JobAgainError, JobFailedError
from deltactl.featurize.layout import Layout
from deltactl.featurize.views import Crops
from deltactl.featurize.writer import GroupWriter, group_writer, writes_under_way
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location

log = logging.getLogger(__name__)

LIBRARIES = (
    *("torch", "transformers", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "tensorstore",
)
RAW_CLIPS_AHEAD = {"cpu": 32, "cuda": 256}
"""Clips as they lie in the shard that wait to be decoded. A GPU takes 250 of them in a second, so that this bridges
opening the next tar, also in an object store."""
RAW_BYTES_AHEAD = 1 << 30
"""What they may hold of the memory; 256 clips of 8 frames at 512 px are about 600 MB."""
Decoder = Literal["opencv", "dali"]
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Settings:
    """What a pipeline needs besides the backbone."""

    crops: Crops
    seed: int
    frames: int
    """Frames in a clip."""
    identity: Identity
    decode_threads: int | None = None
    decoder: Decoder = "opencv"


@runtime_checkable
class End(Protocol):
    """What is made of a job's frames on the device, and written; `Features` is one."""

    @property
    def layout(self) -> Layout:
        """The shapes of the groups."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the groups' last digits depend on, besides the backbone."""

    def start(self, frames: Tensor) -> Result:
        """Begin to compute the features of a batch of frames."""

    def fill(self, opened: Opened, writer: GroupWriter) -> GroupFill:
        """Return what gathers the events of a job into its group."""


@dataclass(frozen=True)
class Features:
    """Writes the features as they are."""

    computer: Computer
    frames: int
    """Frames in a clip."""

    @property
    def layout(self) -> Layout:
        """The shapes of the groups."""
        rows, columns = self.computer.grid
        return Layout("features", self.frames, (rows * columns, self.computer.backbone.dim))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Nothing more."""
        return {}

    def start(self, frames: Tensor) -> Result:
        """Begin to compute a batch, and to bring it to main memory."""
        return self.computer.start(frames)

    def fill(self, opened: Opened, writer: GroupWriter) -> GroupFill:
        """Return what gathers the events of a job into its group."""
        return GroupFill(opened, writer)


@dataclass
class Pipeline:
    """Makes groups of `root` from `shards`; `run` yields what became of each job."""

    shards: ShardSet
    root: Location
    computer: Computer
    settings: Settings
    end: End
    """What is made of the frames, and written."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage was busy, after `run`."""
    _dali: DaliClipDecoder | None = field(default=None, init=False, repr=False)
    _again: list[Job] = field(default_factory=list, init=False, repr=False)
    _told: dict[Job, int] = field(default_factory=dict, init=False, repr=False)
    """Clips that `advance` has heard of, of jobs that began anew."""

    def run(self, jobs: Iterable[Job], advance: Callable[[int], None] = lambda _: None) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published, in order; `advance` hears of clips that passed.

        Jobs are drawn when their shard is about to be read; those that had to begin anew come last.
        """
        self.seconds = {}
        while True:
            self._again = []
            yield from self._run(jobs, advance)
            if not self._again:
                return
            jobs = self._again

    def _run(self, jobs: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        kind = self.computer.device.type
        threads = self.settings.decode_threads or decode_threads(kind)
        clips = RAW_CLIPS_AHEAD.get(kind, RAW_CLIPS_AHEAD["cpu"])
        batcher = Batcher(self.computer, self.end.start)
        with (
            _one_core_a_thread(kind),
            ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool,
            Background(self._read(jobs), depth=clips, name="read", size=_raw_bytes, most_bytes=RAW_BYTES_AHEAD) as read,
            Background(self._decode(read, pool, threads), depth=2, name="decode", upstream=read) as decode,
            Background(batcher.run(decode), depth=BATCHES_AHEAD, name="backbone", upstream=decode) as compute,
        ):
            writing = 0.0
            started, waited = time.perf_counter(), 0.0
            for event in compute:
                result = self._write(event, compute, advance)
                writing += time.perf_counter() - started - (compute.waited_seconds - waited)
                if result is not None:
                    yield result
                started, waited = time.perf_counter(), compute.waited_seconds
            parts = {
                "reading": read.busy_seconds,
                "decoding": decode.busy_seconds,
                "the backbone": compute.busy_seconds,
                "writing": writing,
            }
            self.seconds = {name: self.seconds.get(name, 0.0) + seconds for name, seconds in parts.items()}

    # --- stages ---

    def _read(self, jobs: Iterable[Job]) -> Iterator[ShardEvent]:
        for job in jobs:
            try:
                sidecar = self.shards.sidecar(job.unit)
                yield Opened(job, sidecar.keys, self.shards.source_names(sidecar), sidecar.tar_sha256)
                for row, clip in enumerate(self.shards.stream(job.unit)):
                    yield RawClip(job, row, clip)
                yield Closed()
            except DamagedError as error:
                yield Failed(job, str(error).removeprefix(f"{self.shards.root}/"))

    def _decode(self, events: Iterator[ShardEvent], pool: ThreadPoolExecutor, threads: int) -> Iterator[DecodedEvent]:
        device, settings = self.computer.device, self.settings
        on_gpu = device.type == "cuda"
        decoder = ClipDecoder(settings.crops, settings.seed, settings.frames, on_gpu)
        if settings.decoder == "dali" and self._dali is None:
            self._dali = DaliClipDecoder(decoder, (device.index or 0) if on_gpu else None, threads)
            if fault := self._dali.fault():
                log.warning("DALI does not work on %s, so OpenCV decodes: %s", device, fault)
                self.settings = replace(settings, decoder="opencv")  # which the groups' provenance says as well
        if self._dali is not None and self.settings.decoder == "dali":
            yield from _decode_in_calls(events, self._dali)
        else:
            yield from read_ahead((_begin_decoding(event, decoder, pool) for event in events), 2 * threads)

    def _write(
        self, first: ComputedEvent, events: Iterator[ComputedEvent], advance: Callable[[int], None]
    ) -> JobResult | None:
        """Make the group of a job; None where it must begin anew."""
        if isinstance(first, Failed):
            return self._failure(first)
        assert isinstance(first, Opened), "a job begins with its shard"
        job, told = first.job, self._told.get(first.job, 0)
        writes = writes_under_way(self.computer.device.type, self.end.layout)
        try:
            with group_writer(
                self.root,
                job.view,
                job.unit,
                self.end.layout,
                first.keys,
                first.sources,
                replace=job.replace,
                writes=writes,
            ) as writer:
                group = self.end.fill(first, writer)
                closed = group.fill(events, advance, told)
                group.flush()
                return group.close(self.computer.grid, self._attributes(closed.computed))
        except JobFailedError as error:
            return self._failure(error.event)
        except JobAgainError:
            self._told[job] = max(told, group.passed)
            if not group.ended:
                group.skip(events)
            self._again.append(job)
            return None

    def _attributes(self, computed: Mapping[str, Any]) -> dict[str, Any]:
        how = stable_provenance(LIBRARIES, **computed, decoder=self.settings.decoder)
        return made_of(self.settings.identity, {**how, **self.end.provenance})

    def _failure(self, event: Failed) -> JobResult:
        entry = Quarantined(f"{event.job.unit}.tar", event.reason, event.job.unit)
        return JobResult(event.job, 0, 0, (entry,), 0, failed=True)


def made_of(identity: Identity, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group says of how it came about, for its attributes."""
    return {"identity": {"kind": identity.kind, "values": dict(identity.values)}, "provenance": dict(provenance)}


def _raw_bytes(event: ShardEvent) -> int:
    return sum(map(len, event.clip.frames)) if isinstance(event, RawClip) else 0


@contextlib.contextmanager
def _one_core_a_thread(device_type: str) -> Iterator[None]:
    """Beside a GPU, let each decoding thread use one core: with a team of threads each, they would wait in turn."""
    if device_type != "cuda":
        yield
        return
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def decode_threads(device: str) -> int:
    """Return how many threads decode: beside a GPU all cores but one, else one, since the backbone wants the cores."""
    return max(1, min(16, (os.cpu_count() or 2) - 1)) if device == "cuda" else 1


def _begin_decoding(event: ShardEvent, decoder: ClipDecoder, pool: ThreadPoolExecutor) -> Callable[[], DecodedEvent]:
    """Begin to decode a raw clip in a thread; return what waits for it, or yields another event as it is."""
    return pool.submit(decoder.decode, event).result if isinstance(event, RawClip) else lambda: event


def _decode_in_calls(events: Iterator[ShardEvent], decoder: DaliClipDecoder) -> Iterator[DecodedEvent]:
    """Replace raw clips by decoded ones, a few of a job in one call."""
    raws: list[RawClip] = []
    for event in events:
        if isinstance(event, RawClip):
            raws.append(event)
        if len(raws) == CALL_CLIPS or (raws and not isinstance(event, RawClip)):
            yield from decoder.decode(raws)
            raws = []
        if not isinstance(event, RawClip):
            yield event
