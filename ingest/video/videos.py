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
from collections.abc import Iterator
from multiprocessing.connection import wait

from deltactl.artifacts import Quarantined
from deltactl.engine import Child, batched
from deltactl.errors import WorkerDiedError, WorkerTimeoutError
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.sources import Source
from deltactl.ingest.units import UnitLog, UnitPlan
from deltactl.ingest.video.cutting import BATCH_SOURCES, ClipCutter, CutClips, CutReply, CutTask, UnusableSource


class VideoClipMaker:
    """A `ClipMaker` for training videos: decodes sources in `children` processes at once, and keeps their order."""

    def __init__(self, cutter: ClipCutter, *, children: int, time_limit_seconds: float) -> None:
        self._cutter = cutter
        self._count = children
        self._time_limit = time_limit_seconds
        self._children: list[Child[CutTask, CutReply]] = []

    def start(self, slot: int) -> None:
        """Prepare the child processes of worker number `slot`; they start with their first source."""
        self._children = [Child(self._cutter, slot * self._count + number) for number in range(self._count)]

    def clips(self, unit: UnitPlan, log: UnitLog) -> Iterator[Clip]:
        """Yield the clips of a unit's sources; those that cannot be read go to the log."""
        free = deque(self._children)
        under_way: deque[tuple[CutTask, Child[CutTask, CutReply]]] = deque()
        try:
            for sources in batched(unit.items, BATCH_SOURCES if self._cutter.dali else 1):
                if not free:
                    yield from self._collect(unit, log, *under_way[0])
                    free.append(under_way.popleft()[1])
                child, task = free.popleft(), CutTask(sources)
                under_way.append((task, child))
                # No more time for several: should they need it, each gets as much by itself.
                child.send(task, self._time_limit)
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

    def _collect(self, unit: UnitPlan, log: UnitLog, task: CutTask, child: Child[CutTask, CutReply]) -> list[Clip]:
        """Return the clips of a task that a child was given."""
        try:
            reply = _result(child)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            cuts = [self._retry(source, child, error, alone=len(task.sources) == 1) for source in task.sources]
        else:
            cuts = reply.cuts
            if reply.worn:
                child.close()  # it is started again with its next task
        clips: list[Clip] = []
        for source, cut in zip(task.sources, cuts, strict=True):
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
        return clips

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
