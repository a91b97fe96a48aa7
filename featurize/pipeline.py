"""Shards to groups of a store: reading, decoding, the backbone and writing, each ahead of the next.

    read (thread)  →  decode (threads)  →  backbone (thread)  →  write (here)
    tar, checked      uint8 crops          float16 features       published groups

A job is one view of one shard; it makes one group. Events flow through bounded queues, in order, across jobs, so that
the slowest stage alone sets the pace. What cannot be used is named: a tar that does not match its checksum fails its
job, an undecodable frame or features beyond float16 quarantine their clip; everything else goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.artifacts import Identity, Quarantined, stable_provenance
from deltactl.errors import DamagedError
from deltactl.featurize.background import Background
from deltactl.featurize.compute import Computer, Result
from deltactl.featurize.crops import crop_resize
from deltactl.featurize.decode import ClipDecoder
from deltactl.featurize.decode_dali import CALL_CLIPS, DaliClipDecoder
from deltactl.featurize.events import (
    BatchFeatures,
    ClipFrames,
    ClipView,
    Closed,
    Failed,
    Job,
    JobResult,
    Opened,
    RawClip,
)
from deltactl.featurize.fill import GroupFill, JobFailedError
from deltactl.featurize.layout import Layout
from deltactl.featurize.views import Crops, View
from deltactl.featurize.writer import GroupWriter, group_writer
from deltactl.ingest.geometry import Box
from deltactl.ingest.shards import ShardSet
from deltactl.locations import Location

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "tensorstore")
RAW_CLIPS_AHEAD = 32
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


# --- the pipeline ----------------------------------------------------------------------------------------------------


@dataclass
class Pipeline:
    """Makes groups of `root` from `shards`; `run` yields what became of each job."""

    shards: ShardSet
    root: Location
    computer: Computer
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage was busy, after `run`."""
    _dali: DaliClipDecoder | None = field(default=None, init=False, repr=False)

    @property
    def layout(self) -> Layout:
        """The shapes of the groups."""
        rows, columns = self.computer.grid
        return Layout("features", self.settings.frames, (rows * columns, self.computer.backbone.dim))

    def run(self, jobs: Sequence[Job], advance: Callable[[int], None] | None = None) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published, in order; `advance` hears of clips that passed."""
        threads = self.settings.decode_threads or decode_threads(self.computer.device.type)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="decode"))
            read = stack.enter_context(Background(self._read(jobs), depth=RAW_CLIPS_AHEAD, name="read"))
            decode = stack.enter_context(
                Background(self._decode(read, pool, threads), depth=2, name="decode", upstream=read)
            )
            compute = stack.enter_context(
                Background(self._compute(decode), depth=BATCHES_AHEAD, name="backbone", upstream=decode)
            )
            writing = 0.0
            started, waited = time.perf_counter(), 0.0
            for event in compute:
                result = self._write(event, compute, advance)
                writing += time.perf_counter() - started - (compute.waited_seconds - waited)
                yield result
                started, waited = time.perf_counter(), compute.waited_seconds
            self.seconds = {
                "reading": read.busy_seconds,
                "decoding": decode.busy_seconds,
                "the backbone": compute.busy_seconds,
                "writing": writing,
            }

    # --- stages ---

    def _read(self, jobs: Sequence[Job]) -> Iterator[Any]:
        for job in jobs:
            try:
                sidecar = self.shards.sidecar(job.unit)
                clips = self.shards.read(job.unit)
                first = next(clips, None)  # checks the tar's bytes
                yield Opened(job, sidecar.keys, sidecar.tar_sha256)
                row = 0
                while first is not None:
                    if row >= len(sidecar.keys) or first.key != sidecar.keys[row]:
                        raise DamagedError(f"shard {job.unit}: its clips are not the ones that its sidecar names")
                    yield RawClip(job, row, first)
                    first, row = next(clips, None), row + 1
                if row != len(sidecar.keys):
                    raise DamagedError(f"shard {job.unit} holds {row} clips; its sidecar names {len(sidecar.keys)}")
                yield Closed()
            except DamagedError as error:
                yield Failed(job, str(error).removeprefix(f"{self.shards.root}/"))

    def _decode(self, events: Iterator[Any], pool: ThreadPoolExecutor, threads: int) -> Iterator[Any]:
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
            yield from _decode_in_threads(events, decoder, pool, 2 * threads)

    def _compute(self, events: Iterator[Any]) -> Iterator[Any]:
        """Yield the other events as they are, and the features of batches; one batch is always under way."""
        under_way: tuple[tuple[tuple[int, int], ...], Result] | None = None
        places: list[tuple[int, int]] = []
        frames: list[Tensor] = []

        def launch(count: int) -> tuple[tuple[tuple[int, int], ...], Result]:
            joined = torch.cat(frames)
            started = tuple(places[:count]), self.computer.start(joined[:count])
            frames[:] = [joined[count:]] if len(joined) > count else []
            del places[:count]
            return started

        def arrived() -> Iterator[BatchFeatures]:
            nonlocal under_way
            if under_way is not None:
                batch_places, result = under_way
                under_way = None
                yield BatchFeatures(batch_places, *result.wait())

        for event in events:
            if isinstance(event, ClipFrames):
                yield ClipView(event.row, event.times, event.view)
                frames.append(self._crop(event))
                places.extend((event.row, number) for number in range(len(event.frames)))
                while len(places) >= self.computer.batch_size:
                    begun = launch(self.computer.batch_size)
                    yield from arrived()
                    under_way = begun
                continue
            if isinstance(event, Closed | Failed):
                yield from arrived()
                if places and isinstance(event, Closed):
                    under_way = launch(len(places))
                    yield from arrived()
                places.clear()
                frames.clear()
            yield event

    def _crop(self, clip: ClipFrames) -> UInt8[Tensor, "frame 3 size size"]:
        planes = clip.frames.to(self.computer.device, non_blocking=True).permute(0, 3, 1, 2)
        whole = Box(0, 0, clip.view.crop.height, clip.view.crop.width)
        return crop_resize(planes, View(whole, clip.view.flip), self.computer.size)

    def _write(self, first: Any, events: Iterator[Any], advance: Callable[[int], None] | None) -> JobResult:
        if isinstance(first, Failed):
            return self._failure(first)
        assert isinstance(first, Opened), "a job begins with its shard"
        job = first.job
        try:
            with group_writer(self.root, job.view, job.unit, self.layout, first.keys, replace=job.replace) as writer:
                group = self.group_fill(first, writer)
                group.fill(events, advance)
                return group.close(self.computer.grid, self._attributes())
        except JobFailedError as error:
            return self._failure(error.event)

    def group_fill(self, opened: Opened, writer: GroupWriter) -> GroupFill:
        """Return what gathers the events of a job into its group."""
        return GroupFill(opened, writer)

    def _attributes(self) -> dict[str, Any]:
        identity = self.settings.identity
        return {
            "identity": {"kind": identity.kind, "values": dict(identity.values)},
            "provenance": stable_provenance(LIBRARIES, **self.computer.provenance, decoder=self.settings.decoder),
        }

    def _failure(self, event: Failed) -> JobResult:
        entry = Quarantined(f"{event.job.unit}.tar", event.reason, event.job.unit)
        return JobResult(event.job, 0, 0, (entry,), 0, failed=True)


def decode_threads(device: str) -> int:
    """Return how many threads decode: beside a GPU all cores but one, else one, since the backbone wants the cores."""
    return max(1, min(16, (os.cpu_count() or 2) - 1)) if device == "cuda" else 1


def _decode_in_threads(
    events: Iterator[Any], decoder: ClipDecoder, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Any]:
    """Replace raw clips by decoded ones, in order, with so many clips in the threads' hands."""
    waiting: deque[Any] = deque()
    for event in events:
        waiting.append(pool.submit(decoder.decode, event) if isinstance(event, RawClip) else event)
        if len(waiting) > ahead:
            yield _settled(waiting.popleft())
    while waiting:
        yield _settled(waiting.popleft())


def _decode_in_calls(events: Iterator[Any], decoder: DaliClipDecoder) -> Iterator[Any]:
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


def _settled(event: Any) -> Any:
    return event.result() if isinstance(event, Future) else event
