"""Cuts the clips of a few sources in one process: a decoding child's work (`videos` runs the children).

Takes a task, which names sources; returns for each its clips, or why it cannot be used. A wanted frame is decoded once,
shrunk at most once, and encoded once, however many clips hold it; only encoded frames are kept and sent.

If DALI was asked for, it decodes the videos of a task together: several pieces of several videos in one run of its
pipeline. PyAV decodes what DALI refuses, and the reason is recorded. If a run of several videos fails, each is tried by
itself, then with PyAV.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Float

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import SourceError
from deltactl.ingest.episodes.episode import ArrayEpisode, VideoEpisode
from deltactl.ingest.shards.format import Clip, ClipMeta
from deltactl.ingest.shards.keys import clip_key, source_name
from deltactl.ingest.sources import FrameFolder, RefusedSource, Source, VideoFile, ZippedFolder
from deltactl.ingest.video.columns import ColumnReader
from deltactl.ingest.video.decode_av import AbsentFrameError, DamagedFramesError, PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder, DaliJob, gpu_count
from deltactl.ingest.video.encode import FrameEncoder
from deltactl.ingest.video.frames import FrameSequence, open_frame_folder, open_zipped_folder
from deltactl.ingest.video.sampling import STRIDE, SampledClip, sample_clips
from deltactl.ingest.video.timestamps import Video
from deltactl.ingest.video.zips import ZipArchive

BATCH_SOURCES = 8
"""Videos that are given to DALI together."""
BATCH_BYTES = 128_000_000
"""Bytes of encoded packets that are held for one run of several videos; more makes it several runs."""


@dataclass(frozen=True)
class CutConfig:
    """What decides the clips of a source."""

    dataset: str
    root: str
    clips: int
    frames: int
    size: FrameSize | None
    """What stored frames must serve; None: none are stored, and each stays as it was decoded."""
    quality: int
    seed: int
    stride: tuple[float, float] = STRIDE
    """Seconds that each step to the next frame is drawn from."""
    columns: ColumnReader | None = None
    """What reads what clips carry besides their frames."""


@dataclass(frozen=True)
class CutTask:
    """Sources to cut."""

    sources: tuple[Source, ...]
    dali: bool = True
    """Whether to decode with DALI, if it was asked for; off for a last try."""


@dataclass
class CutClips:
    """What came of one source."""

    clips: list[Clip]
    seconds: dict[str, float] = field(default_factory=dict)
    left_by_dali: str | None = None
    """Why PyAV decoded it though DALI was asked for."""
    lost: str | None = None
    """Which clips are missing for want of whole frames, and why."""


@dataclass(frozen=True)
class UnusableSource:
    """A source without clips, and why."""

    reason: str


@dataclass(frozen=True)
class CutReply:
    """What came of a task."""

    cuts: list[CutClips | UnusableSource]
    """One for each source, in order."""
    worn: bool = False
    """Whether the process should be replaced before its next task."""


@dataclass(frozen=True)
class _Waiting:
    """A video that DALI will decode."""

    position: int
    source: Source
    clips: tuple[SampledClip, ...]
    job: DaliJob
    seconds: float


class ClipCutter:
    """Cuts sources; an engine worker, for a child process."""

    def __init__(self, config: CutConfig, *, dali: bool) -> None:
        self.dali = dali
        """Whether DALI decodes what it can; PyAV decodes everything else."""
        self.clips = config.clips
        """Clips of each source."""
        self._config = config
        self._pyav: PyAVDecoder | None = None
        self._dali: DaliDecoder | None = None
        self._archive: ZipArchive | None = None

    def start(self, slot: int) -> None:
        """Prepare the decoders; worker number `slot` takes its turn of the GPUs."""
        cv2.setNumThreads(1)  # one process a core
        if multiprocessing.parent_process() is not None:
            # DALI's FFmpeg and libjpeg tell of every damaged packet; what matters comes back as an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        self._pyav = PyAVDecoder()
        if self.dali:
            gpus = gpu_count()
            self._dali = DaliDecoder("gpu" if gpus else "cpu", slot % max(1, gpus))
        self._archive = None

    def run(self, task: CutTask) -> CutReply:
        """Return the clips of the sources."""
        cuts: dict[int, CutClips | UnusableSource] = {}
        waiting: list[_Waiting] = []
        dali = self._dali if task.dali else None
        for position, source in enumerate(task.sources):
            if dali is None or not isinstance(source, VideoFile | VideoEpisode):
                cuts[position] = self._cut_alone(source)
                continue
            match self._prepare(dali, position, source):
                case _Waiting() as video:
                    waiting.append(video)
                case reason:
                    cuts[position] = self._cut_alone(source, reason)
            if sum(each.job.bytes for each in waiting) >= BATCH_BYTES:
                cuts.update(self._cut_together(dali, waiting))
                waiting = []
        if waiting:
            assert dali is not None
            cuts.update(self._cut_together(dali, waiting))
        worn = self._dali is not None and self._dali.worn
        return CutReply([cuts[position] for position in range(len(task.sources))], worn)

    def _prepare(self, dali: DaliDecoder, position: int, source: Source) -> _Waiting | str | None:
        """Return what DALI is to decode of a video, or why it should not; None if nobody can."""
        started = time.perf_counter()
        try:
            with self._open(source) as video:
                try:
                    clips = self._sample(source, video.times)
                except SourceError:
                    return None
                try:
                    job = dali.prepare(video, _wanted(clips))
                except SourceError as error:
                    return str(error)
        except SourceError:
            return None
        return _Waiting(position, source, clips, job, time.perf_counter() - started)

    def _cut_together(self, dali: DaliDecoder, videos: Sequence[_Waiting]) -> dict[int, CutClips | UnusableSource]:
        """Return what comes of the videos, by their places, in one run of DALI, or in one for each if that fails."""
        try:
            return self._decode_together(dali, videos)
        except SourceError as error:
            if len(videos) == 1:
                return {videos[0].position: self._cut_after(dali, videos[0], str(error))}
        cuts: dict[int, CutClips | UnusableSource] = {}
        for video in videos:
            cuts.update(self._cut_together(dali, [video]))
        return cuts

    def _decode_together(self, dali: DaliDecoder, videos: Sequence[_Waiting]) -> dict[int, CutClips | UnusableSource]:
        encoders = [FrameEncoder(self._config.size, self._config.quality) for _ in videos]
        wrong: dict[int, str] = {}
        started = time.perf_counter()
        for number, index, picture in dali.run([video.job for video in videos]):
            if isinstance(picture, SourceError):
                wrong[number] = str(picture)
            else:
                encoders[number].add(index, picture)
        decoding = time.perf_counter() - started - sum(encoder.seconds for encoder in encoders)
        cuts: dict[int, CutClips | UnusableSource] = {}
        for number, (video, encoder) in enumerate(zip(videos, encoders, strict=True)):
            if number in wrong:
                cuts[video.position] = self._cut_after(dali, video, wrong[number])
            else:
                seconds = {"demux": video.seconds, "decode": decoding / len(videos), "encode": encoder.seconds}
                cuts[video.position] = self._assemble(video.source, video.clips, encoder, dali.name, seconds)
        return cuts

    def _cut_after(self, dali: DaliDecoder, video: _Waiting, reason: str) -> CutClips | UnusableSource:
        """Return what comes of a video at which DALI failed, for this reason."""
        cut = self._cut_alone(video.source, reason)
        if isinstance(cut, CutClips):
            dali.blame(video.job.codec, reason)
        return cut

    def _cut_alone(self, source: Source, left_by_dali: str | None = None) -> CutClips | UnusableSource:
        """Return what comes of one source without DALI."""
        root = Path(self._config.root)
        try:
            match source:
                case RefusedSource():
                    return UnusableSource(source.reason)
                case ZippedFolder():
                    self._archive = self._archive or ZipArchive(root)
                    return self._cut_frames(source, open_zipped_folder(self._archive, source.spans))
                case FrameFolder():
                    return self._cut_frames(source, open_frame_folder(root / source.name))
                case ArrayEpisode():
                    return self._cut_array(source)
                case _:
                    cut = self._cut_video(source)
                    cut.left_by_dali = left_by_dali
                    return cut
        except SourceError as error:
            return UnusableSource(str(error))

    def _open(self, source: Source) -> Video:
        """Return a video file, or the part of one that an episode is."""
        root = Path(self._config.root)
        if isinstance(source, VideoEpisode):
            return Video(root / source.file, window=source.window)
        return Video(root / source.name)

    def _cut_video(self, source: Source) -> CutClips:
        started = time.perf_counter()
        with self._open(source) as video:
            demuxed = time.perf_counter() - started
            try:
                cut = self._decode(source, video)
            except AbsentFrameError:
                if video.window is not None:  # nobody decodes a whole file for a part of it
                    raise
            else:
                cut.seconds["demux"] = demuxed
                return cut
        # The container announced frames that are not there: look which ones there are.
        with Video(Path(self._config.root) / source.name, by_decoding=True) as video:
            return self._decode(source, video)

    def _decode(self, source: Source, video: Video) -> CutClips:
        clips = self._sample(source, video.times)
        assert self._pyav is not None, "start comes first"
        encoder = FrameEncoder(self._config.size, self._config.quality)
        started = time.perf_counter()
        damaged: dict[int, str] = {}
        try:
            for number, image in self._pyav.frames(video, _wanted(clips)):
                encoder.add(number, image)
        except DamagedFramesError as error:
            damaged = error.reasons
        decoding = time.perf_counter() - started - encoder.seconds
        seconds = {"decode": decoding, "encode": encoder.seconds}
        return self._assemble(source, clips, encoder, self._pyav.name, seconds, damaged)

    def _cut_frames(self, source: Source, sequence: FrameSequence) -> CutClips:
        clips = self._sample(source, sequence.times)
        encoder = FrameEncoder(self._config.size, self._config.quality)
        started = time.perf_counter()
        for number in _wanted(clips):
            encoder.add_file(number, sequence.read(number), sequence.names[number])
        return self._assemble(source, clips, encoder, "opencv", {"frames": time.perf_counter() - started})

    def _cut_array(self, source: ArrayEpisode) -> CutClips:
        with source.open(Path(self._config.root)) as pictures:
            clips = self._sample(source, pictures.times)
            encoder = FrameEncoder(self._config.size, self._config.quality)
            started = time.perf_counter()
            for number in _wanted(clips):
                encoder.add(number, pictures.picture(number))
        seconds = {"frames": time.perf_counter() - started - encoder.seconds, "encode": encoder.seconds}
        return self._assemble(source, clips, encoder, source.reader, seconds)

    def _sample(self, source: Source, times: Float[np.ndarray, " frames"]) -> tuple[SampledClip, ...]:
        if isinstance(source, VideoEpisode):
            times = source.own_times(times)
        if len(times) < 2:
            raise SourceError("holds a single frame; a clip needs at least two")
        config = self._config
        clips = sample_clips(
            times,
            source=source.name,
            seed=config.seed,
            clips=config.clips,
            frames=config.frames,
            stride=config.stride,
        )
        if config.columns is None:
            return clips
        known = config.columns.read(source, times, self._archive)
        return tuple(replace(clip, columns=known.of(clip)) for clip in clips)

    def _assemble(
        self,
        source: Source,
        clips: tuple[SampledClip, ...],
        encoder: FrameEncoder,
        decoder: str,
        seconds: dict[str, float],
        damaged: Mapping[int, str] = MappingProxyType({}),
    ) -> CutClips:
        """Return the clips whose frames are all there; raises SourceError if there is none."""
        reasons = [
            next((damaged[index] for index in clip.indices if index in damaged), None) if damaged else None
            for clip in clips
        ]
        lost = [reason for reason in reasons if reason is not None]
        if len(lost) == len(clips):
            raise SourceError(lost[0])
        assert encoder.size is not None
        made = [
            Clip(
                clip_key(source.name, number, self._config.clips),
                ClipMeta(source.name, self._config.dataset, clip.times, clip.indices, encoder.size, decoder),
                [encoder.encoded[index] for index in clip.indices],
                encoder.frame_format,
                source_name=source_name(source.video),
                columns=clip.columns,
            )
            for number, (clip, reason) in enumerate(zip(clips, reasons, strict=True))
            if reason is None
        ]
        summary = f"{len(lost)} of {len(clips)} clips are left out: {lost[0]}" if lost else None
        return CutClips(made, seconds, lost=summary)


def _wanted(clips: tuple[SampledClip, ...]) -> list[int]:
    """Return the numbers of the frames that the clips hold, sorted."""
    return sorted({index for clip in clips for index in clip.indices})
