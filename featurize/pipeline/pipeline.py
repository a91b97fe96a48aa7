"""Shards, or videos, to groups of a store: reading, decoding, the backbone and writing, each ahead of the next.

    read.ClipReader  →  decode.ClipDecoder  →  batches.Batcher  →  fill.Filler
    thread              threads                thread              here
    tar, hashed         uint8 crops            float16 features    published groups

A job is one view of one shard; it makes one group. Events flow through bounded queues, in order, across jobs, so that
the slowest step alone sets the pace. Where a GPU's memory runs full, batches get smaller and the job begins anew, so
that all batches of a group are of one size.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import torch
from torch import Tensor

from deltactl.featurize.pipeline.background import Background
from deltactl.featurize.pipeline.batches import Batcher
from deltactl.featurize.pipeline.compute import Computer, Result
from deltactl.featurize.pipeline.decode import Decoder
from deltactl.featurize.pipeline.events import Job, JobResult
from deltactl.featurize.pipeline.fill import Filler
from deltactl.featurize.pipeline.read import ClipReader, raw_bytes

RAW_CLIPS_AHEAD = {"cpu": 32, "cuda": 256}
"""Clips as they lie in the shard that wait to be decoded. A GPU takes 250 of them in a second, so that this bridges
opening the next tar, also in an object store."""
RAW_BYTES_AHEAD = 1 << 30
"""What they may hold of the memory; 256 clips of 8 frames at 512 px are about 600 MB."""
DECODED_AHEAD, BATCHES_AHEAD = 2, 2


@dataclass
class Pipeline:
    """Makes groups of what `reader` reads; `run` yields what became of each job."""

    reader: ClipReader
    """Started."""
    decoder: Decoder
    computer: Computer
    start: Callable[[Tensor], Result]
    """Begins to compute a batch: `computer.start`, or `start_here` for features that are used on the device."""
    filler: Filler
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step was busy, after `run`."""

    def run(self, jobs: Iterable[Job], advance: Callable[[int], None] = lambda _: None) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published, in order; `advance` hears of clips that passed.

        Jobs are drawn when their shard is about to be read; those that had to begin anew come last.
        """
        self.seconds = {}
        kind = self.computer.device.type
        batcher = Batcher(self.computer, self.start)
        clips, most_bytes = RAW_CLIPS_AHEAD.get(kind, RAW_CLIPS_AHEAD["cpu"]), RAW_BYTES_AHEAD
        left: Iterable[Job] | None = jobs
        while left:
            raw = self.reader.read(left)
            with (
                _one_core_a_thread(kind),
                Background(raw, depth=clips, name="read", size=raw_bytes, most_bytes=most_bytes) as read,
                Background(self.decoder.run(read), depth=DECODED_AHEAD, name="decode", upstream=read) as decode,
                Background(batcher.run(decode), depth=BATCHES_AHEAD, name="backbone", upstream=decode) as compute,
            ):
                filling, began = 0.0, time.perf_counter()
                for result in self.filler.run(compute, advance):
                    filling += time.perf_counter() - began
                    yield result
                    began = time.perf_counter()
                filling += time.perf_counter() - began
                parts = {
                    self.reader.part: read.busy_seconds,
                    "decoding": decode.busy_seconds,
                    "the backbone": compute.busy_seconds,
                    "writing": filling - compute.waited_seconds,
                }
                self.seconds = {name: self.seconds.get(name, 0.0) + seconds for name, seconds in parts.items()}
            left = self.filler.again

    def close(self) -> None:
        """End what the reader left running."""
        self.reader.close()


def decode_threads(device: str) -> int:
    """Return how many threads decode: beside a GPU all cores but one, else one, since the backbone wants the cores."""
    return max(1, min(16, (os.cpu_count() or 2) - 1)) if device == "cuda" else 1


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
