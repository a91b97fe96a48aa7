"""The first step of the pipeline straight from videos: child processes decode them and cut the clips that ingest would.

All planned clips of a unit are rows of its group, so that keys and rows do not hang on what could be read: a clip whose
video cannot be read is `NoFrames`, with the video and the reason. Videos that belong to several units are decoded ahead
across the border between them. Where several views of a unit are made one after the other, its decoded frames are kept
for them, as far as `KEPT_BYTES` go; beyond, a view costs decoding again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from deltactl.featurize.pipeline.events import Closed, Job, NoFrames, Opened, RawClip, ShardEvent
from deltactl.featurize.pipeline.read import raw_bytes
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.units import UnitLog, UnitPlan
from deltactl.ingest.video.videos import VideoClipMaker

KEPT_BYTES = 2 << 30
"""What the frames of a unit may hold of the memory while other views of it follow: 256 clips of 8 frames of 340 × 256
pixels are 540 MB."""


class VideoReader:
    """Cuts clips from videos; frames come decoded."""

    part = "decoding videos"
    decodes = True

    def __init__(self, maker: VideoClipMaker, views: int) -> None:
        """`views`: how many of a unit follow each other, at most."""
        self._maker = maker
        self._most_bytes = KEPT_BYTES if views > 1 else 0

    def start(self, threads: int) -> None:
        """Prepare so many processes; each starts with its first video."""
        self._maker.start(0, children=threads)

    def read(self, jobs: Iterable[Job]) -> Generator[ShardEvent, None, None]:
        """Yield the events of each job; those whose frames could not be kept for them come last."""
        left: Iterable[Job] = jobs
        while left:
            left = yield from self._read(left)

    def close(self) -> None:
        """End the processes."""
        self._maker.close()

    def _read(self, jobs: Iterable[Job]) -> Generator[ShardEvent, None, list[Job]]:
        """Yield the events of jobs; return those that must be read again."""
        units: deque[_Unit] = deque()
        again: list[Job] = []
        for cut in self._maker.stream(self._draw(jobs, units)):
            unit = units[0]
            yield from unit.add(cut.clips, last=cut.last)
            if cut.last:
                units.popleft()
                # All jobs of the unit were drawn before its last videos were collected: see `_draw`.
                for job in unit.jobs[1:]:
                    if unit.kept is None:
                        again.append(job)
                    else:
                        yield from (_of_job(event, job) for event in unit.kept)
        return again

    def _draw(self, jobs: Iterable[Job], units: deque[_Unit]) -> Iterator[tuple[UnitPlan, UnitLog]]:
        """Yield the units of jobs; when the next one is drawn, the one before it has all its jobs."""
        for _, group in groupby(jobs, key=lambda job: job.unit):
            unit = _Unit(next(group), self._maker, self._most_bytes)
            units.append(unit)
            yield unit.plan, unit.log
            unit.jobs.extend(group)  # noqa: B031 (the rest of the group)


class _Unit:
    """The unit of one job, or of several that show other views of it."""

    def __init__(self, job: Job, maker: VideoClipMaker, most_bytes: int) -> None:
        assert job.footage is not None, "a job straight from videos names them"
        self.jobs = [job]
        self.plan = job.footage.unit
        self.log = UnitLog()
        self.kept: list[ShardEvent] | None = [] if most_bytes else None
        """All events so far; None where they are not kept."""
        self._planned = maker.planned(self.plan)
        self._rows = {clip.key: row for row, clip in enumerate(self._planned)}
        self._opened = False
        self._next = 0
        """The first row that has not passed."""
        self._bytes = 0
        self._most_bytes = most_bytes
        self._decoders: set[str] = set()

    def add(self, clips: Sequence[Clip], *, last: bool) -> Iterator[ShardEvent]:
        """Yield the events of the first job for the next clips, which are the `last` ones or not."""
        for event in self._events(clips, last=last):
            if self.kept is not None:
                self.kept.append(event)
                self._bytes += raw_bytes(event)
                if self._bytes > self._most_bytes:
                    self.kept = None
            yield event

    def _events(self, clips: Sequence[Clip], *, last: bool) -> Iterator[ShardEvent]:
        job = self.jobs[0]
        if not self._opened:
            self._opened = True
            keys, sources = ([getattr(clip, name) for clip in self._planned] for name in ("key", "source_name"))
            assert job.footage is not None
            yield Opened(job, tuple(keys), tuple(sources), job.footage.sha256)
        for clip in clips:
            row = self._rows[clip.key]
            yield from self._absent(row)
            self._decoders.add(clip.meta.decoder)
            yield RawClip(job, row, clip)
            self._next = row + 1
        if last:
            yield from self._absent(len(self._planned))
            yield Closed({"videos": " and ".join(sorted(self._decoders))} if self._decoders else {})

    def _absent(self, before: int) -> Iterator[NoFrames]:
        """Yield the clips before a row that did not come, with the reason that their video has."""
        if self._next == before:
            return
        reasons = {entry.source: entry.reason for entry in self.log.quarantined}
        for row in range(self._next, before):
            source = self._planned[row].source
            yield NoFrames(row, (), f"{source}: {reasons.get(source, 'it has no such clip')}")


def _of_job(event: ShardEvent, job: Job) -> ShardEvent:
    """Return an event of one job as that of another job of the same unit."""
    return replace(event, job=job) if isinstance(event, Opened | RawClip) else event
