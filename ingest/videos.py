"""Cuts the clips of training videos: from sources to encoded frames, one unit (shard) at a time.

In come the sources of a unit; out come its clips, in order. Each source is decoded in a child process, which may crash
or hang without harm: that costs one source, which is quarantined, and the process is started again. A wanted frame is
decoded once, shrunk at most once, and encoded once, however many clips hold it; only encoded frames are kept and sent.
A child needs 150 MB and one frame, plus the file where it is smaller than 64 MB.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from deltactl.artifacts import Quarantined
from deltactl.engine import Child
from deltactl.errors import SourceError, WorkerDiedError, WorkerTimeoutError
from deltactl.ingest.decode import Decoder, DecoderChoice, Decoders
from deltactl.ingest.decode_av import AbsentFrameError
from deltactl.ingest.decode_dali import gpu_count
from deltactl.ingest.encode import FrameEncoder
from deltactl.ingest.frames import FrameSequence, open_frame_folder, open_zipped_folder
from deltactl.ingest.keys import clip_key
from deltactl.ingest.plan import UnitLog, UnitPlan
from deltactl.ingest.sampling import ClipFrames, sample_clips
from deltactl.ingest.shards import Clip, ClipMeta
from deltactl.ingest.sources import FrameFolder, RefusedSource, Source, ZippedFolder
from deltactl.ingest.timestamps import Video
from deltactl.ingest.zips import ZipArchive


@dataclass(frozen=True)
class CutSettings:
    """What decides the clips of a source."""

    dataset: str
    root: str
    clips: int
    frames: int
    size: int
    quality: int
    seed: int


@dataclass(frozen=True)
class CutTask:
    """One source to cut."""

    source: Source
    gpu: bool = True
    """Whether to decode on a GPU where that is possible; off for a second try."""


@dataclass
class CutClips:
    """What came of one source."""

    clips: list[Clip]
    seconds: dict[str, float] = field(default_factory=dict)


class ClipCutter:
    """Cuts one source at a time; an engine worker, for a child process. SourceError for a source that is no use."""

    def __init__(self, settings: CutSettings, decoder: DecoderChoice) -> None:
        self._settings = settings
        self._decoder = decoder

    def may_use_gpu(self) -> bool:
        """Whether some sources are decoded on a GPU of this machine though they need not be."""
        return self._decoder == "auto" and gpu_count() > 0

    def start(self, slot: int) -> None:
        """Prepare the decoders; worker number `slot` takes its turn of the GPUs."""
        cv2.setNumThreads(1)  # one process a core
        if multiprocessing.parent_process() is not None:
            # DALI's FFmpeg and libjpeg tell of every damaged packet; what matters comes back as an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        self._decoders = Decoders(self._decoder, device_id=slot, gpus=0 if self._decoder == "pyav" else gpu_count())
        self._archive: ZipArchive | None = None

    def run(self, task: CutTask) -> CutClips:
        """Return the clips of a source."""
        source, root = task.source, Path(self._settings.root)
        match source:
            case RefusedSource():
                raise SourceError(source.reason)
            case ZippedFolder():
                self._archive = self._archive or ZipArchive(root)
                return self._cut_frames(source, open_zipped_folder(self._archive, source.spans))
            case FrameFolder():
                return self._cut_frames(source, open_frame_folder(root / source.name))
            case _:
                return self._cut_video(source, root / source.name, gpu=task.gpu)

    def _cut_video(self, source: Source, path: Path, *, gpu: bool) -> CutClips:
        started = time.perf_counter()
        with Video(path) as video:
            demuxed = time.perf_counter() - started
            candidates = self._decoders.candidates(video, gpu=gpu)
            for decoder in candidates:
                try:
                    cut = self._cut(source, video, decoder)
                except AbsentFrameError:
                    break
                except SourceError:
                    if decoder is candidates[-1]:
                        raise
                else:
                    cut.seconds["demux"] = demuxed
                    return cut
        # The container announced frames that are not there: look which ones there are.
        with Video(path, by_decoding=True) as video:
            return self._cut(source, video, self._decoders.candidates(video, gpu=False)[-1])

    def _cut(self, source: Source, video: Video, decoder: Decoder) -> CutClips:
        clips = self._sample(source, video.times)
        wanted = sorted({index for clip in clips for index in clip.indices})
        encoder = FrameEncoder(self._settings.size, self._settings.quality)
        started = time.perf_counter()
        for number, image in decoder.frames(video, wanted):
            encoder.add(number, image)
        decoding = time.perf_counter() - started - encoder.seconds
        return self._assemble(source, clips, encoder, decoder.name, {"decode": decoding, "encode": encoder.seconds})

    def _cut_frames(self, source: Source, sequence: FrameSequence) -> CutClips:
        clips = self._sample(source, sequence.times)
        wanted = sorted({index for clip in clips for index in clip.indices})
        encoder = FrameEncoder(self._settings.size, self._settings.quality)
        started = time.perf_counter()
        for number in wanted:
            encoder.add_file(number, sequence.read(number), sequence.names[number])
        return self._assemble(source, clips, encoder, "opencv", {"frames": time.perf_counter() - started})

    def _sample(self, source: Source, times: Float[np.ndarray, " frames"]) -> tuple[ClipFrames, ...]:
        if len(times) < 2:
            raise SourceError("holds a single frame; a clip needs at least two")
        settings = self._settings
        return sample_clips(times, source=source.name, seed=settings.seed, clips=settings.clips, frames=settings.frames)

    def _assemble(
        self,
        source: Source,
        clips: tuple[ClipFrames, ...],
        encoder: FrameEncoder,
        decoder: str,
        seconds: dict[str, float],
    ) -> CutClips:
        assert encoder.size is not None
        made = [
            Clip(
                clip_key(source.name, number, self._settings.clips),
                ClipMeta(source.name, self._settings.dataset, clip.times, clip.indices, encoder.size, decoder),
                [encoder.encoded[index] for index in clip.indices],
            )
            for number, clip in enumerate(clips)
        ]
        return CutClips(made, seconds)


class VideoClipMaker:
    """A `ClipMaker` for training videos: decodes sources in `children` processes at once, and keeps their order."""

    def __init__(self, cutter: ClipCutter, *, children: int, time_limit_seconds: float) -> None:
        self._cutter = cutter
        self._count = children
        self._time_limit = time_limit_seconds
        self._retry_without_gpu = False
        self._children: list[Child[CutTask, CutClips]] = []

    def start(self, slot: int) -> None:
        """Prepare the child processes of worker number `slot`; they start with their first source."""
        self._retry_without_gpu = self._cutter.may_use_gpu()
        self._children = [Child(self._cutter, slot * self._count + number) for number in range(self._count)]

    def clips(self, unit: UnitPlan, log: UnitLog) -> Iterator[Clip]:
        """Yield the clips of a unit's sources; those that cannot be read go to the log."""
        free = deque(self._children)
        under_way: deque[tuple[Source, Child[CutTask, CutClips]]] = deque()
        try:
            for source in unit.items:
                if not free:
                    yield from self._collect(unit, log, *under_way[0])
                    free.append(under_way.popleft()[1])
                child = free.popleft()
                under_way.append((source, child))
                child.send(CutTask(source), self._time_limit)
            while under_way:
                yield from self._collect(unit, log, *under_way[0])
                under_way.popleft()
        finally:
            for _, child in under_way:  # abandoned: what they are at would answer the next question
                child.close()

    def close(self) -> None:
        """End the child processes."""
        for child in self._children:
            child.close()

    def _collect(self, unit: UnitPlan, log: UnitLog, source: Source, child: Child[CutTask, CutClips]) -> list[Clip]:
        try:
            try:
                cut = _result(child)
            except (WorkerDiedError, WorkerTimeoutError):
                if not self._retry_without_gpu:
                    raise
                cut = child.call(CutTask(source, gpu=False), self._time_limit)
        except WorkerDiedError as error:
            reason = f"the decoder crashed: {error}"
        except WorkerTimeoutError:
            reason = f"the decoder took longer than {self._time_limit:g} s; --time-limit allows more"
        except SourceError as error:
            reason = str(error)
        else:
            for part, seconds in cut.seconds.items():
                log.add_seconds(part, seconds)
            return cut.clips
        log.quarantined.append(Quarantined(source.name, reason, unit.name))
        return []


def _result(child: Child[CutTask, CutClips]) -> CutClips:
    """Wait for the answer of a child."""
    while True:
        if (reply := child.receive()) is not None:
            return reply[0]
        wait([child.connection], timeout=child.seconds_left())
