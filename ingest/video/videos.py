"""Makes the clips of training videos: from the sources of a unit (shard) to encoded frames, in order.

Takes the sources of a unit, yields its clips, in order. Child processes decode (they run `cutting`), and may crash or
hang without harm: that costs one source, which is quarantined, and the process is started again. A process that ends
may have been killed by something else (the kernel, short of memory), so its source is tried once more in a fresh one.
Sources go to a child one at a time, or a few together if DALI decodes them; a source that crashes or hangs with others
is tried again by itself, and at last without DALI. A child needs 150 MB and one frame, plus the file if it is smaller
than 64 MB; with DALI 500 MB, plus the packets and frames of one run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait

from deltactl.artifacts import Quarantined
from deltactl.engine import Child, batched
from deltactl.errors import WorkerDiedError, WorkerTimeoutError
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.shards.keys import clip_key, source_name
from deltactl.ingest.sources import Source
from deltactl.ingest.units import PlannedClip, UnitLog, UnitPlan
from deltactl.ingest.video.cutting import BATCH_SOURCES, ClipCutter, CutClips, CutReply, CutTask, UnusableSource


@dataclass(frozen=True)
class UnitClips:
    """The next clips of a unit."""

    unit: UnitPlan
    clips: list[Clip]
    last: bool
    """Whether the unit ends with them."""


@dataclass(frozen=True)
class _Task:
    """What a child is given, and for which unit."""

    cut: CutTask
    unit: UnitPlan
    log: UnitLog
    last: bool


class VideoClipMaker:
    """A `ClipMaker` for training videos: decodes sources in `children` processes at once, and keeps their order."""

    def __init__(self, cutter: ClipCutter, *, children: int, time_limit_seconds: float) -> None:
        self._cutter = cutter
        self._count = children
        self._time_limit = time_limit_seconds
        self._children: list[Child[CutTask, CutReply]] = []

    def start(self, slot: int, children: int | None = None) -> None:
        """Prepare the child processes of worker number `slot`; they start with their first source.

        `children` is how many, where it is another number.
        """
        self._count = children or self._count
        self._children = [Child(self._cutter, slot * self._count + number) for number in range(self._count)]

    def planned(self, unit: UnitPlan) -> tuple[PlannedClip, ...]:
        """Return the clips of a unit, in order, if every source can be read whole."""
        clips = self._cutter.clips
        return tuple(
            PlannedClip(clip_key(source.name, number, clips), source.name, source_name(source.video))
            for source in unit.items
            for number in range(clips)
        )

    def clips(self, unit: UnitPlan, log: UnitLog) -> Iterator[Clip]:
        """Yield the clips of a unit's sources; those that cannot be read go to the log."""
        for cut in self.stream([(unit, log)]):
            yield from cut.clips

    def stream(self, units: Iterable[tuple[UnitPlan, UnitLog]]) -> Iterator[UnitClips]:
        """Yield the clips of several units, in order, a few at a time; no process waits where one unit ends.

        A unit is drawn when processes are free for it.
        """
        free = deque(self._children)
        under_way: deque[tuple[_Task, Child[CutTask, CutReply]]] = deque()
        try:
            for task in self._tasks(units):
                if not free:
                    yield self._collect(*under_way[0])
                    free.append(under_way.popleft()[1])
                child = free.popleft()
                under_way.append((task, child))
                # No more time for several: should they need it, each gets as much by itself.
                child.send(task.cut, self._time_limit)
            while under_way:
                yield self._collect(*under_way[0])
                under_way.popleft()
        finally:
            for _, child in under_way:  # abandoned: what they are at would answer the next question
                child.close()

    def _tasks(self, units: Iterable[tuple[UnitPlan, UnitLog]]) -> Iterator[_Task]:
        size = BATCH_SOURCES if self._cutter.dali else 1
        for unit, log in units:
            parts = list(batched(unit.items, size))
            for number, sources in enumerate(parts, start=1):
                yield _Task(CutTask(sources), unit, log, last=number == len(parts))

    def close(self) -> None:
        """End the child processes."""
        for child in self._children:
            child.close()

    def _collect(self, task: _Task, child: Child[CutTask, CutReply]) -> UnitClips:
        """Return the clips of a task that a child was given."""
        unit, log, sources = task.unit, task.log, task.cut.sources
        try:
            reply = _result(child)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            cuts = [self._retry(source, child, error, alone=len(sources) == 1) for source in sources]
        else:
            cuts = reply.cuts
            if reply.worn:
                child.close()  # it is started again with its next task
        clips: list[Clip] = []
        for source, cut in zip(sources, cuts, strict=True):
            if isinstance(cut, UnusableSource):
                log.quarantined.append(Quarantined(source.name, cut.reason, unit.name))
                continue
            if cut.lost is not None:
                log.quarantined.append(Quarantined(source.name, cut.lost, unit.name))
            if cut.left_by_dali is not None:
                log.left_by_dali.append((cut.left_by_dali, source.name))
            for part, seconds in cut.seconds.items():
                log.add_seconds(part, seconds)
            clips += cut.clips
        return UnitClips(unit, clips, task.last)

    def _retry(
        self,
        source: Source,
        child: Child[CutTask, CutReply],
        error: WorkerDiedError | WorkerTimeoutError,
        *,
        alone: bool,
    ) -> CutClips | UnusableSource:
        """Return what comes of a source whose process died or hung: by itself, then without DALI.

        Each way of decoding is given up once it took too long, or once two processes died at it.
        """
        ways = [True, False] if self._cutter.dali else [False]
        deaths = 1 if isinstance(error, WorkerDiedError) else 2  # that the next way may cost
        if alone and isinstance(error, WorkerTimeoutError):
            ways = ways[1:]
        for dali in ways:
            try:
                (cut,) = child.call(CutTask((source,), dali=dali), self._time_limit, deaths=deaths).cuts
            except (WorkerDiedError, WorkerTimeoutError) as another:
                error, deaths = another, 2
            else:
                if isinstance(cut, CutClips) and self._cutter.dali and not dali:
                    cut.left_by_dali = f"DALI fails: {self._reason(error)}"
                return cut
        return UnusableSource(self._reason(error))

    def _reason(self, error: WorkerDiedError | WorkerTimeoutError) -> str:
        if isinstance(error, WorkerTimeoutError):
            return f"the decoder took longer than {self._time_limit:g} s; --time-limit allows more"
        return f"the decoder crashed: {error}"


def _result(child: Child[CutTask, CutReply]) -> CutReply:
    """Wait for the answer of a child."""
    while True:
        if (reply := child.receive()) is not None:
            return reply[0]
        wait([child.connection], timeout=child.seconds_left())
