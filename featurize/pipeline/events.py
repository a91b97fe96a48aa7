"""What passes through the featurize pipeline, from a shard to a group: jobs, and the events of their clips, in order.

A job is `Opened`, then for each clip a `RawClip` (after reading), `ClipFrames` (after decoding), and `ClipView` and
`BatchFeatures` (after the backbone), or `NoFrames` from the step on at which it fails; then `Closed`; or `Failed` or
`Again` at any point. The types at the end of this file say which of them leave each stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from deltactl.artifacts import Quarantined
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.views import View
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.units import UnitPlan


@dataclass(frozen=True)
class Footage:
    """The videos that a unit is cut from."""

    unit: UnitPlan
    sha256: str
    """Of their names and sizes."""


@dataclass(frozen=True)
class Job:
    """One view of one shard, or of the unit of videos that ingest would make that shard of."""

    view: int
    unit: str
    replace: bool = False
    """Make the group anew where there is one."""
    footage: Footage | None = field(default=None, compare=False, repr=False)
    """Where its clips come straight from videos."""

    @property
    def name(self) -> str:
        """Names the group among those of its store, in one word."""
        return f"v{self.view:03d}-{self.unit}"


@dataclass(frozen=True)
class Overflow:
    """Clips that were left out because a number of theirs is finite, and larger than the store's type can hold."""

    sources: tuple[str, ...]
    """Keys of the clips."""
    channels: tuple[int, ...]
    """In which channels, sorted."""
    largest: float
    """The largest absolute value that was met."""

    def plus(self, other: Overflow) -> Overflow:
        """Return both together."""
        channels = tuple(sorted({*self.channels, *other.channels}))
        return Overflow((*self.sources, *other.sources), channels, max(self.largest, other.largest))


@dataclass(frozen=True)
class JobResult:
    """What became of a job."""

    job: Job
    clips: int
    """Clips of the shard; 0 where it cannot be used."""
    written: int
    """Clips whose features were written."""
    quarantined: tuple[Quarantined, ...]
    bytes: int
    failed: bool = False
    """Whether no group was made, because the tar cannot be used."""
    made: bool = True
    """False where another process has made the group."""
    overflow: Overflow | None = None
    """Those of the quarantined clips whose numbers are too large for the store's type."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name


@dataclass(frozen=True)
class Opened:
    """A shard whose clips follow; whether its bytes are sound is known when all of them have been read."""

    job: Job
    keys: tuple[str, ...]
    sources: Sequence[str]
    """The name of the source of each clip."""
    tar_sha256: str


@dataclass(frozen=True)
class Closed:
    """All clips of a job have passed."""

    computed: Mapping[str, Any] = field(default_factory=dict)
    """What their features' last digits depend on, as each step adds it: all clips of a job are made alike."""


@dataclass(frozen=True)
class Failed:
    """A shard that cannot be used."""

    job: Job
    reason: str


@dataclass(frozen=True)
class Again:
    """A job whose batches turned out too large for the GPU's memory; it begins anew later, with smaller ones."""


@dataclass(frozen=True)
class RawClip:
    """A clip as it lies in the shard."""

    job: Job
    row: int
    clip: Clip


@dataclass(frozen=True)
class ClipFrames:
    """A decoded clip, cut to the crop of its view."""

    row: int
    times: tuple[float, ...]
    view: View
    """In pixels of the stored frame."""
    frames: UInt8[Tensor, "frame height width 3"]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What its frames, and it, carry besides."""


@dataclass(frozen=True)
class ClipView:
    """What a clip whose features follow shows."""

    row: int
    times: tuple[float, ...]
    view: View
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What its steps, and it, carry besides."""


@dataclass(frozen=True)
class NoFrames:
    """A clip without features: quarantined for a reason, or None where it has no such view."""

    row: int
    times: tuple[float, ...]
    reason: str | None


@dataclass(frozen=True)
class Found:
    """What was seen of each item of a batch, on the device that computed it."""

    largest: Float32[np.ndarray, " item"]
    """The largest absolute value before it was rounded; NaN where any is."""
    mean: Float32[np.ndarray, "item dim"] | None = None
    """Of each channel over the item's patches, after rounding; None where nobody asks."""
    variance: Float32[np.ndarray, "item dim"] | None = None

    def storable(self, largest: float) -> Bool[np.ndarray, " item"]:
        """Return which items are finite and within a type whose largest number is given."""
        return self.largest <= largest  # false for NaN, too

    def statistics(self, item: int, count: int) -> Statistics | None:
        """Return those of an item of so many patches; None where they are not known, or not finite in float32."""
        if self.mean is None or self.variance is None:
            return None
        mean, variance = (each[item].astype(np.float64) for each in (self.mean, self.variance))
        return Statistics(count, mean, variance) if np.isfinite(variance).all() and np.isfinite(mean).all() else None


@dataclass(frozen=True)
class BatchFeatures:
    """The features of a batch; `places` holds the row and the frame of each."""

    places: tuple[tuple[int, int], ...]
    features: Float[Tensor, "item patch dim"]
    """Float16 or bfloat16, in main memory, or on the GPU where they are used there."""
    found: Found


ShardEvent = Opened | RawClip | NoFrames | Closed | Failed
"""What reading a shard, or videos, yields; `NoFrames` of videos that cannot be read."""
DecodedEvent = Opened | ClipFrames | NoFrames | Closed | Failed
"""What comes out of the decoder."""
ComputedEvent = Opened | ClipView | NoFrames | BatchFeatures | Closed | Failed | Again
"""What comes out of the backbone."""
