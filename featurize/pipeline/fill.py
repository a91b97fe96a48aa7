"""The last step of the pipeline: gathers the events of each job into its group, which is published whole or not at all.

A tar that does not match its checksum fails its job before anything of it is published; an undecodable frame or
features that are not finite, or beyond the store's type, quarantine their clip; everything else goes on. What is beyond
the type is counted apart (`Overflow`), since another type is the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from deltactl.artifacts import Identity, Quarantined, stable_provenance
from deltactl.featurize.pipeline.events import (
    Again,
    BatchFeatures,
    ClipView,
    Closed,
    ComputedEvent,
    Failed,
    Job,
    JobResult,
    NoFrames,
    Opened,
    Overflow,
)
from deltactl.featurize.store.carried import COLUMNS, CarriedRows
from deltactl.featurize.store.layout import Layout, group_name
from deltactl.featurize.store.numbers import stored_numbers
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.store.writer import group_writer, writes_under_way
from deltactl.locations import Location

LIBRARIES = (
    *("torch", "transformers", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "tensorstore",
)
"""Whose versions the provenance of features and tokens names."""


class JobFailedError(Exception):
    """A job turned out impossible when its group was begun; nothing of it may be published."""

    def __init__(self, event: Failed) -> None:
        super().__init__(event.reason)
        self.event = event


class JobAgainError(Exception):
    """A job must begin anew, with smaller batches; nothing of what was begun may be published."""


@runtime_checkable
class GroupSink(Protocol):
    """Where the items of a group go: a `GroupWriter`, or what keeps them in memory."""

    @property
    def layout(self) -> Layout:
        """How the items are stored."""

    @property
    def bytes(self) -> int:
        """Bytes that were written."""

    def put(
        self,
        row: int,
        first_frame: int,
        frames: Shaped[np.ndarray, "frame *item"],
        statistics: Statistics | None = None,
    ) -> None:
        """Take frames of a clip, as `GroupWriter.put`."""

    def invalidate(self, row: int) -> None:
        """Take back a clip, whatever was put."""

    def close(
        self,
        *,
        grid: Sequence[int],
        small: Mapping[str, Shaped[np.ndarray, "clip *rest"]],
        attributes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """End the group, as `GroupWriter.close`."""


class GroupFill:
    """One group of features while its events arrive; what else is made of features overrides `put` and `flush`."""

    def __init__(self, opened: Opened, writer: GroupSink) -> None:
        self.opened = opened
        self.writer = writer
        count, frames = len(opened.keys), writer.layout.frames
        self.times = np.full((count, frames), np.nan)
        self.crop = np.zeros((count, 4), np.int32)
        self.flip = np.zeros(count, bool)
        self.carried = CarriedRows(writer.layout.carried, count, frames)
        self.invalid: set[int] = set()
        self.ended = False
        """Whether the job's last event has come."""
        self.passed = 0
        """Clips that have come."""
        self.reasons: dict[int, str] = {}
        self.overflow: dict[int, Overflow] = {}
        """Of rows with numbers that the store's type cannot hold."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the last digits of what is written depend on, besides the features'."""
        return {}

    def fill(self, events: Iterator[ComputedEvent], advance: Callable[[int], None], told: int = 0) -> Closed:
        """Take the events of the job until its end, which is returned.

        `advance` hears of each clip, but for the first `told`: of these it heard before the job began anew.

        Raises:
            JobFailedError: the job fails after all.
            JobAgainError: it must begin anew.
        """
        for event in events:
            if isinstance(event, ClipView | NoFrames):
                self.passed += 1
                if self.passed > told:
                    advance(1)
            match event:
                case ClipView():
                    box = event.view.crop
                    self.times[event.row] = event.times
                    self.crop[event.row] = (box.top, box.left, box.height, box.width)
                    self.flip[event.row] = event.view.flip
                    if (fault := self.carried.put(event.row, event.columns)) is not None:
                        self.invalidate(event.row, fault)
                case NoFrames():
                    if event.times:
                        self.times[event.row] = event.times
                    self.invalidate(event.row, event.reason)
                case BatchFeatures():
                    self.put(event)
                case Failed():
                    self.ended = True
                    raise JobFailedError(event)
                case Again():
                    self.ended = True
                    raise JobAgainError
                case Closed():
                    self.ended = True
                    self.flush()
                    return event
        raise AssertionError("the pipeline ended in the middle of a job")

    def put(self, batch: BatchFeatures) -> None:
        """Take the features of a batch, in main memory."""
        features, storable = stored_numbers(batch.features), self.storable(batch)
        for number, (row, frame) in enumerate(batch.places):
            if not storable[number]:
                self.refuse(row, f"frame {frame}", batch.features[number], float(batch.found.largest[number]))
            statistics = batch.found.statistics(number, features.shape[1])
            self.writer.put(row, frame, features[number : number + 1], statistics)

    def storable(self, batch: BatchFeatures) -> Bool[np.ndarray, " item"]:
        """Return which items of a batch are finite and within the store's type."""
        return batch.found.storable(self.writer.layout.largest)

    def refuse(self, row: int, what: str, values: Float[Tensor, "*item dim"], largest: float) -> None:
        """Leave a clip out whose rounded `values` (those of `what`) are not its own, and had this largest value."""
        dtype, key = self.writer.layout.dtype, self.opened.keys[row]
        if not math.isfinite(largest):
            self.invalidate(row, f"{what}: a number is not finite")
            return
        self.invalidate(row, f"{what}: a number is beyond {dtype}")
        size = values.detach().abs().float().flatten(0, -2).amax(0)
        # Those a little beyond are rounded to the largest number, not to infinity.
        channels = torch.nonzero(size >= self.writer.layout.largest).flatten().tolist()
        here = Overflow((key,), tuple(channels), largest)
        self.overflow[row] = replace(here.plus(self.overflow[row]), sources=(key,)) if row in self.overflow else here

    def flush(self) -> None:
        """Compute what was put off; after it is known what features or tokens depend on."""

    def invalidate(self, row: int, reason: str | None) -> None:
        """Leave a clip out; it is quarantined where there is a reason."""
        self.writer.invalidate(row)
        self.invalid.add(row)
        if reason is not None:
            self.reasons.setdefault(row, reason)

    def close(self, grid: Sequence[int], attributes: Mapping[str, Any]) -> JobResult:
        """Write the rest of the group, `attributes` among it."""
        job = self.opened.job
        unit = group_name(job.view, job.unit)
        quarantined = tuple(
            Quarantined(self.opened.keys[row], reason, unit) for row, reason in sorted(self.reasons.items())
        )
        self.carried.drop(sorted(self.invalid))
        self.writer.close(
            grid=grid,
            small={"times": self.times, "crop": self.crop, "flip": self.flip, COLUMNS: self.carried.rows},
            attributes={
                **attributes,
                **({"texts": self.carried.texts} if self.carried.texts else {}),
                "view": job.view,
                "shard": job.unit,
                "shard_sha256": self.opened.tar_sha256,
                "quarantined": [entry.to_json() for entry in quarantined],
            },
        )
        clips = len(self.opened.keys)
        overflow = reduce(Overflow.plus, (each for _, each in sorted(self.overflow.items()))) if self.overflow else None
        written = clips - len(self.invalid)
        return JobResult(job, clips, written, quarantined, self.writer.bytes, overflow=overflow)

    def skip(self, events: Iterator[ComputedEvent]) -> None:
        """Let the rest of a job that begins anew pass, until its end."""
        for event in [] if self.ended else events:
            if isinstance(event, Closed | Failed | Again):
                return


@dataclass
class Filler:
    """Fills the groups of a store, one after the other."""

    root: Location
    identity: Identity
    layout: Layout
    grid: tuple[int, int]
    """Rows and columns of patches."""
    device_type: str
    """Where the features come from: a GPU fills Zarr shards faster than a disk takes them."""
    begin: Callable[[Opened, GroupSink], GroupFill] = GroupFill
    """Begins a group."""
    again: list[Job] = field(default_factory=list)
    """Jobs of the last `run` that must begin anew, with smaller batches."""
    _told: dict[Job, int] = field(default_factory=dict, init=False, repr=False)
    """Clips that `advance` has heard of, of jobs that began anew."""

    def run(self, events: Iterator[ComputedEvent], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published, in order; `advance` hears of clips that passed."""
        self.again = []
        for event in events:
            if isinstance(event, Failed):
                yield _failure(event)
                continue
            assert isinstance(event, Opened), "a job begins with its shard"
            if (result := self._fill(event, events, advance)) is not None:
                yield result

    def _fill(
        self, opened: Opened, events: Iterator[ComputedEvent], advance: Callable[[int], None]
    ) -> JobResult | None:
        """Make the group of a job; None where it must begin anew."""
        job, told, layout = opened.job, self._told.get(opened.job, 0), self.layout
        writes = writes_under_way(self.device_type, layout)
        try:
            with group_writer(
                self.root,
                job.view,
                job.unit,
                layout,
                opened.keys,
                opened.sources,
                replace=job.replace,
                writes=writes,
            ) as writer:
                group = self.begin(opened, writer)
                closed = group.fill(events, advance, told)
                identity = {"kind": self.identity.kind, "values": dict(self.identity.values)}
                provenance = stable_provenance(LIBRARIES, **closed.computed, **group.provenance)
                return group.close(self.grid, {"identity": identity, "provenance": provenance})
        except JobFailedError as error:
            return _failure(error.event)
        except JobAgainError:
            self._told[job] = max(told, group.passed)
            group.skip(events)
            self.again.append(job)
            return None


def _failure(event: Failed) -> JobResult:
    entry = Quarantined(f"{event.job.unit}.tar", event.reason, event.job.unit)
    return JobResult(event.job, 0, 0, (entry,), 0, failed=True)
