"""Drives a stage: claims its artifact, has the missing units made, and leaves it whole on every exit.

A stage plans first. Then `open_stage` claims the artifact, refuses one that is something else, and calls `finish` at
the end, also after an error. `Stage.make` hands the units that no other process makes to a `Maker`, in this process or
in several, and counts what became of them. A unit is published whole or not at all, so that a stage can be killed at
any moment, run again, and be run by several processes at once.

What one process makes alone and publishes at its end, such as a report, is held (`claims.hold`); a `Stage` of that
claim hands out its units in the same way.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from deltactl.artifacts import Identity, Quarantined, open_artifact
from deltactl.claims import Claim, share
from deltactl.configs.engine import EngineConfig
from deltactl.engine import batched, run_tasks
from deltactl.errors import DeltactlError, StorageError, TooManyBadError
from deltactl.generations import check_fits
from deltactl.locations import Location
from deltactl.progress import Progress, Summary, counted, format_bytes
from deltactl.unit_claims import UnitClaims

log = logging.getLogger(__name__)


@runtime_checkable
class Named(Protocol):
    """A unit of work, or its result."""

    @property
    def name(self) -> str:
        """Name of the unit, in one word, unlike that of every other unit of the artifact."""


Unit = TypeVar("Unit", bound=Named)
Result = TypeVar("Result", bound=Named)
Unit_contra = TypeVar("Unit_contra", bound=Named, contravariant=True)
Result_co = TypeVar("Result_co", bound=Named, covariant=True)


@runtime_checkable
class Maker(Protocol[Unit_contra, Result_co]):
    """Makes units, in one process; picklable before `start`."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long each part of the work was busy in the last `make`, once that has ended."""

    def start(self, slot: int) -> None:
        """Load what all units need; `slot` counts the processes from 0."""

    def make(self, units: Iterable[Unit_contra], advance: Callable[[int], None]) -> Iterator[Result_co]:
        """Yield the result of each unit once it is published, or found to be of no use; not always in order.

        Units are drawn as they are needed, which claims them; `advance` hears of clips as they pass.
        """


class Stage:
    """A stage at work on its artifact, which this process has claimed: alone, or (by `open_stage`) beside others."""

    def __init__(self, label: str, summary: Summary, claim: Claim) -> None:
        self.summary = summary
        self._label = label
        self._claim = claim

    def make(
        self,
        maker: Maker[Unit, Result],
        units: Sequence[Unit],
        *,
        clips_in: Callable[[Unit], int],
        found: Callable[[Unit], Result | None],
        count: Callable[[Result], None],
        workers: int,
        at_once: int = 1,
        engine: EngineConfig | None = None,
    ) -> None:
        """Make the units that no other process makes, and wait for the others.

        Args:
            maker: makes them; copied to each worker.
            units: what is missing.
            clips_in: how many clips a unit has, for the progress.
            found: returns the result of a unit that another process has published meanwhile; None where there is none.
            count: hears of each result; what it raises ends the work.
            workers: how many processes; 0 for this one alone.
            at_once: units that a worker is given at a time, at most, so that its pipeline does not run dry between.
            engine: where the workers are; on this machine by default.
        """
        clips = {unit.name: clips_in(unit) for unit in units}
        with (
            UnitClaims(self._claim) as claims,
            Progress(sum(clips.values()), unit=self.summary.unit, label=self._label) as progress,
        ):

            def passed(unit: Unit) -> None:
                progress.advance(clips[unit.name])
                result = found(unit)
                assert result is not None, "a unit passes once it is published"
                count(result)

            rounds = claims.rounds(
                units, name=lambda unit: unit.name, is_made=lambda unit: found(unit) is not None, passed=passed
            )
            for drawn in rounds:
                if workers == 0 and (engine is None or engine.engine == "local"):
                    results = self._make_here(maker, drawn, progress.advance)
                else:
                    size = max(1, min(at_once, len(units) // max(4 * workers, 1)))
                    results = self._make_in_workers(maker, batched(drawn, size), workers, engine, progress, clips)
                with contextlib.closing(results):
                    for result in results:
                        claims.done(result.name)
                        count(result)

    def _make_here(
        self, maker: Maker[Unit, Result], units: Iterator[Unit], advance: Callable[[int], None]
    ) -> Generator[Result, None, None]:
        first = next(units, None)
        if first is None:  # nothing is loaded for nothing
            return
        maker.start(0)
        yield from maker.make(chain([first], units), advance)
        self.summary.add(parts=maker.seconds)

    def _make_in_workers(
        self,
        maker: Maker[Unit, Result],
        batches: Iterator[tuple[Unit, ...]],
        workers: int,
        engine: EngineConfig | None,
        progress: Progress,
        clips: Mapping[str, int],
    ) -> Generator[Result, None, None]:
        with contextlib.closing(run_tasks(_Batches(maker), batches, workers=workers, engine=engine)) as tasks:
            for _, (results, seconds) in tasks:
                self.summary.add(parts=seconds)
                for result in results:
                    progress.advance(clips[result.name])
                    yield result


@dataclass
class _Batches(Generic[Unit, Result]):
    """A maker as a worker of the engine: one task is a few units."""

    maker: Maker[Unit, Result]

    def start(self, slot: int) -> None:
        """Load what all tasks need."""
        self.maker.start(slot)

    def run(self, units: tuple[Unit, ...]) -> tuple[tuple[Result, ...], dict[str, float]]:
        """Make a few units; return their results, and how long each part of the work was busy."""
        results = tuple(self.maker.make(units, lambda _: None))
        return results, dict(self.maker.seconds)


@contextlib.contextmanager
def open_stage(
    label: str,
    root: Location,
    identity: Identity,
    provenance: Mapping[str, Any],
    *,
    summary: Summary,
    generations: Sequence[Mapping[str, Any]] = (),
    finish: Callable[[bool], str],
) -> Iterator[Stage]:
    """Claim the artifact of a stage beside other processes of the same stage, and yield the stage.

    At the end `finish` closes the artifact, as far as it is whole, and returns its state for the summary; it is told
    whether the work has ended without an error. What is whole is usable at once, also where the next run never comes.

    Raises:
        ClaimedError: a process writes there that must be alone.
        IdentityError: something else lies there, or an artifact of other generations.
    """
    with share(root) as claim:
        for difference in open_artifact(root, identity, provenance):
            log.warning("%s: %s", root, difference)
        check_fits(root, identity, generations)
        try:
            yield Stage(label, summary, claim)
        except BaseException:
            with contextlib.suppress(DeltactlError):
                finish(False)
            raise
        summary.state = finish(True)
    summary.seconds = time.monotonic() - summary.began


class BadTally:
    """Counts what cannot be used against the share that may be."""

    def __init__(self, things: str, total: int, max_bad: float, remedy: str, *, fault: str = "cannot be used") -> None:
        """`things`: what is counted, in the plural; `total`: how many there are; `remedy`: what to do about `fault`."""
        self.entries: list[Quarantined] = []
        self._count = 0
        self._things = things
        self._total = total
        self._max_bad = max_bad
        self.remedy = remedy
        """What to do about the fault, as an error says it."""
        self._fault = fault

    def add(self, entries: Sequence[Quarantined], count: int | None = None) -> None:
        """Add entries; `count` says of how many things, where that is another number."""
        self.entries.extend(entries)
        self._count += len(entries) if count is None else count

    @property
    def allowed(self) -> float:
        """How many there may be."""
        return self._max_bad * self._total

    def check(self) -> None:
        """Check that there are no more than may be.

        Raises:
            TooManyBadError: there are.
        """
        if self._count > self.allowed:
            last = self.entries[-1]
            raise TooManyBadError(
                f"{self._count:,} of {counted(self._total, self._things)} {self._fault}, more than --max-bad "
                f"{self._max_bad:g} allows (such as {last.source}: {last.reason}); {self.remedy}"
            )


def check_room(root: Location, needed: int, remedy: str) -> None:
    """Check that `root` has room for so many bytes; `remedy` is what else to do than make room.

    Raises:
        StorageError: it has none.
    """
    free = root.free_bytes()
    if free is not None and free < needed:
        raise StorageError(
            f"{root} needs {format_bytes(needed)} more, and {format_bytes(free)} are free there; make room, {remedy}"
        )
