"""Gathers the events of one job into its group: features, times, crops, and why clips are invalid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deltactl.artifacts import Quarantined
from deltactl.featurize.events import (
    Again,
    BatchFeatures,
    ClipView,
    Closed,
    ComputedEvent,
    Failed,
    JobResult,
    NoFrames,
    Opened,
)
from deltactl.featurize.layout import group_name
from deltactl.featurize.writer import GroupWriter


class JobFailedError(Exception):
    """A job turned out impossible when its group was begun; nothing of it may be published."""

    def __init__(self, event: Failed) -> None:
        super().__init__(event.reason)
        self.event = event


class JobAgainError(Exception):
    """A job must begin anew, with smaller batches; nothing of what was begun may be published."""


class GroupFill:
    """One group while its events arrive."""

    def __init__(self, opened: Opened, writer: GroupWriter) -> None:
        self.opened = opened
        self.writer = writer
        count, frames = len(opened.keys), writer.layout.frames
        self.times = np.full((count, frames), np.nan)
        self.crop = np.zeros((count, 4), np.int32)
        self.flip = np.zeros(count, bool)
        self.invalid: set[int] = set()
        self.ended = False
        """Whether the job's last event has come."""
        self.passed = 0
        """Clips that have come."""
        self.reasons: dict[int, str] = {}

    def fill(self, events: Iterator[ComputedEvent], advance: Callable[[int], None], told: int = 0) -> Closed:
        """Take the events of the job until its end, which is returned.

        `advance` hears of each clip, but for the first `told`: of these it heard before the job began anew.
        JobFailedError where the job fails after all, JobAgainError where it must begin anew.
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
                case NoFrames():
                    if event.times:
                        self.times[event.row] = event.times
                    self._invalidate(event.row, event.reason)
                case BatchFeatures():
                    self._put(event)
                case Failed():
                    self.ended = True
                    raise JobFailedError(event)
                case Again():
                    self.ended = True
                    raise JobAgainError
                case Closed():
                    self.ended = True
                    return event
        raise AssertionError("the pipeline ended in the middle of a job")

    def skip(self, events: Iterator[ComputedEvent]) -> None:
        """Let the events of a job that begins anew pass, until its end."""
        for event in events:
            if isinstance(event, Closed | Failed | Again):
                self.ended = True
                return

    def flush(self) -> None:
        """Compute what was put off; after it is known what features or tokens depend on."""

    def close(self, grid: Sequence[int], attributes: Mapping[str, Any]) -> JobResult:
        """Write the rest of the group, `attributes` among it."""
        job = self.opened.job
        unit = group_name(job.view, job.unit)
        quarantined = tuple(
            Quarantined(self.opened.keys[row], reason, unit) for row, reason in sorted(self.reasons.items())
        )
        self.writer.close(
            grid=grid,
            small={"times": self.times, "crop": self.crop, "flip": self.flip},
            attributes={
                **attributes,
                "view": job.view,
                "shard": job.unit,
                "shard_sha256": self.opened.tar_sha256,
                "quarantined": [entry.to_json() for entry in quarantined],
            },
        )
        clips = len(self.opened.keys)
        return JobResult(job, clips, clips - len(self.invalid), quarantined, self.writer.bytes)

    def _put(self, batch: BatchFeatures) -> None:
        features = batch.features.numpy()
        for number, (row, frame) in enumerate(batch.places):
            self.writer.put(row, frame, features[number : number + 1])
            if not batch.storable[number]:
                self._invalidate(row, f"frame {frame}: its features are not finite, or beyond float16")

    def _invalidate(self, row: int, reason: str | None) -> None:
        self.writer.invalidate(row)
        self.invalid.add(row)
        if reason is not None:
            self.reasons.setdefault(row, reason)
