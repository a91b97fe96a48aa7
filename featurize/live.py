"""Whether a store tells the truth: some of its clips are made again from where they came, and compared.

Checksums say that bytes are as they were written; this says that they were right. Clips are drawn at random, by a seed,
from all groups that are there (so a part's groups are enough), decoded, cropped and computed by the pipeline that made
them, and never written. What a frame differs by is the norm of the difference, relative to that of the clip's frames on
average. A clip beyond the bound, with other times or another crop, or that cannot be made any more, is a finding, with
its group as the unit to repair.

Batches are others than when the store was made, and so may be the device: hence the bound, which is wide against
rounding and narrow against any mistake. A zeroed frame differs by 1, another frame or crop by a few tenths.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from deltactl.artifacts import Header, read_header
from deltactl.errors import ArtifactError, ConfigError
from deltactl.featurize.loading import load_computer, make_pipeline
from deltactl.featurize.origins import origin_of_store
from deltactl.featurize.pipeline.compute import Computer, Result
from deltactl.featurize.pipeline.events import ComputedEvent, Failed, Job, JobResult, Opened, RawClip, ShardEvent
from deltactl.featurize.pipeline.events import NoFrames as Absent
from deltactl.featurize.pipeline.fill import Filler, GroupFill, GroupSink, JobAgainError, JobFailedError
from deltactl.featurize.pipeline.read import ClipReader
from deltactl.featurize.store.finish import GroupFile, published, read_group_file, readable_index, sound_group
from deltactl.featurize.store.group import GroupHandle, Span
from deltactl.featurize.store.layout import Layout, group_name
from deltactl.featurize.store.numbers import real_numbers
from deltactl.featurize.store.reads import make_reader
from deltactl.featurize.store.repair import device_of, settings_of
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.views import crops_of
from deltactl.locations import Location
from deltactl.progress import Progress, counted
from deltactl.verification import Finding

BOUNDS: Mapping[str, float] = {"float32": 0.015, "float16": 0.015, "bfloat16": 0.04}
"""The largest relative difference of a frame, by the type of what is stored, or of products where that is coarser.
Features count as the same at a cosine of 0.9999, which is a relative difference of 0.014; bfloat16 keeps three bits
less, and two devices round its products differently."""
Made = tuple[Callable[[Tensor], Result], Callable[[Opened, GroupSink], GroupFill]]
"""How a batch is begun, and a group."""


def features_made(computer: Computer) -> Made:
    """Return how features are made."""
    return computer.start, GroupFill


@dataclass
class LiveCheck:
    """What making clips again has shown."""

    findings: list[Finding]
    clips: int
    largest: float
    mean: float
    """Of the relative differences of all frames that were compared."""
    bound: float
    how: str
    """What was compared, and how it was computed."""

    def line(self) -> str:
        """Return it in words."""
        differ = f"relative difference up to {self.largest:.2g}, mean {self.mean:.2g}"
        return f"made again {counted(self.clips, 'crops')} {self.how}: {differ}; at most {self.bound:g} is allowed"


def check_live(
    root: Location,
    count: int,
    *,
    seed: int = 0,
    place: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    skip: Collection[str] = (),
    header: Header | None = None,
    made: Callable[[Computer], Made] = features_made,
) -> LiveCheck:
    """Make up to `count` clips of a store again, and compare them with what it holds.

    `place` and `backbone` are where it was made from, unless given; groups in `skip` are left alone. `header` says
    what it was made from, where that is not its own; `made` is how what it holds is made.

    Raises:
        ArtifactError: the store has no clips, or no longer says what it was made from.
        IdentityError: `place` or `backbone` is not what it was made from.
    """
    header = header or read_header(root)
    sound = sound_group(root)
    if sound is None:
        raise ArtifactError(f"{root} holds no group that can be read; there is nothing to compare")
    config = settings_of(root, header, sound, backbone, device)
    origin = origin_of_store(root, header, place)
    chosen = _draw(root, count, seed, skip)
    computer = load_computer(config, device_of(header, device))
    start, begin = made(computer)
    jobs = [origin.some(view, unit, chosen[view, unit]) for view, unit in origin.in_order(sorted(chosen))]
    reader = _SomeClips(origin.reader(1), {job.name: chosen[job.view, job.unit] for job in jobs})
    keeper = _Keeper(root, header.identity, sound.layout, computer.grid, computer.device.type, begin)
    frames = origin.identity.integer("frames")
    pipeline = make_pipeline(config, reader, frames, computer, start, crops_of(header.identity), keeper)
    compared = _Compared(root)
    with (
        contextlib.closing(pipeline),
        Progress(sum(map(len, chosen.values())), unit="crops", label="verify --live") as progress,
    ):
        for result in pipeline.run(jobs, progress.advance):
            job = result.job
            compared.take(job, chosen[job.view, job.unit], keeper.kept.pop(job))
    types = (sound.layout.dtype, str(computer.backbone.dtype).removeprefix("torch."))
    bound = max(BOUNDS.get(each, BOUNDS["float16"]) for each in types)
    compared.judge(bound)
    return LiveCheck(
        sorted(compared.findings, key=lambda finding: finding.path),
        sum(map(len, chosen.values())),
        max(compared.differences, default=0.0),
        float(np.mean(compared.differences)) if compared.differences else 0.0,
        bound,
        f"from {origin.root} on {computer.device}, stored as {types[0]}, computed in {types[1]}",
    )


def _draw(root: Location, count: int, seed: int, skip: Collection[str]) -> dict[tuple[int, str], frozenset[str]]:
    """Return the keys of random clips that can be read, by view and shard."""
    if count < 1:
        raise ConfigError(f"--live is {count}; expected a number of clips from 1 on")
    index = readable_index(root)
    there = [(view, unit) for view, units in published(root).items() for unit in units]
    groups: list[tuple[tuple[int, str], Sequence[str], Collection[int]]] = []
    for view, unit in there:
        if group_name(view, unit) in skip:
            continue
        entry = None if index is None else index.views.get(view, {}).get(unit)
        if index is not None and entry is not None:
            groups.append(((view, unit), index.keys[unit], set(entry.invalid)))
        else:
            file = read_group_file(root, view, unit)
            groups.append(((view, unit), file.keys, set(file.invalid)))
    sizes = np.array([len(keys) - len(invalid) for _, keys, invalid in groups], np.int64)
    total = int(sizes.sum())
    if not total:
        raise ArtifactError(f"{root} holds no clips that can be read; there is nothing to compare")
    numbers = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    ends = np.cumsum(sizes)
    chosen: dict[tuple[int, str], set[str]] = {}
    for number in numbers.tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        group, keys, invalid = groups[place]
        valid = [key for row, key in enumerate(keys) if row not in invalid] if invalid else keys
        chosen.setdefault(group, set()).add(valid[number - int(ends[place] - sizes[place])])
    return {group: frozenset(keys) for group, keys in chosen.items()}


class _SomeClips:
    """Reads the clips of jobs that have certain keys."""

    def __init__(self, reader: ClipReader, keys: Mapping[str, frozenset[str]]) -> None:
        """`keys`: those to read of each job, by its name."""
        self.part = reader.part
        self.decodes = reader.decodes
        self._reader = reader
        self._keys = keys

    def start(self, threads: int) -> None:
        """Prepare the reader."""
        self._reader.start(threads)

    def read(self, jobs: Iterable[Job]) -> Generator[ShardEvent, None, None]:
        """Yield the events of each job, without other clips."""
        for job in jobs:  # each by itself: views of a unit may be of other videos of it
            rows: set[int] = set()
            for event in self._reader.read([job]):
                if isinstance(event, Opened):
                    rows = {row for row, key in enumerate(event.keys) if key in self._keys[event.job.name]}
                if not isinstance(event, RawClip | Absent) or event.row in rows:
                    yield event

    def close(self) -> None:
        """End the reader."""
        self._reader.close()


@dataclass
class _Clip:
    """A clip that was made again."""

    items: dict[int, Shaped[np.ndarray, "1 *item"]] = field(default_factory=dict)
    """What would be stored, by its first frame."""

    @property
    def numbers(self) -> Float[np.ndarray, "frame value"]:
        """All of it, as a row for each frame."""
        whole = np.concatenate([self.items[frame] for frame in sorted(self.items)])
        return real_numbers(whole).astype(np.float64).reshape(len(whole), -1)


class _InMemory:
    """Keeps the items of a group."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.bytes = 0
        self.clips: dict[int, _Clip] = {}

    def put(
        self,
        row: int,
        first_frame: int,
        frames: Shaped[np.ndarray, "frame *item"],
        statistics: Statistics | None = None,  # noqa: ARG002
    ) -> None:
        """Keep frames of a clip."""
        self.clips.setdefault(row, _Clip()).items[first_frame] = frames.copy()

    def invalidate(self, row: int) -> None:
        """Do nothing: `GroupFill` knows."""

    def close(self, **_: Any) -> dict[str, Any]:
        """Do nothing."""
        return {}


@dataclass(frozen=True)
class _Kept:
    """What was made of a job: the group, and its clips by row; or why there is none."""

    group: GroupFill | None
    clips: Mapping[int, _Clip]
    failure: str = ""


class _Keeper(Filler):
    """Keeps groups rather than publishing them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept: dict[Job, _Kept] = {}

    def run(self, events: Iterator[ComputedEvent], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield a result for each job, once `kept` has what was made of it."""
        self.again = []
        for event in events:
            if isinstance(event, Failed):
                self.kept[event.job] = _Kept(None, {}, event.reason)
                yield JobResult(event.job, 0, 0, (), 0, failed=True)
                continue
            assert isinstance(event, Opened), "a job begins with its shard"
            memory = _InMemory(self.layout)
            group = self.begin(event, memory)
            try:
                group.fill(events, advance)
            except JobAgainError:
                group.skip(events)
                self.again.append(event.job)
                continue
            except JobFailedError as error:
                self.kept[event.job] = _Kept(None, {}, error.event.reason)
            else:
                self.kept[event.job] = _Kept(group, memory.clips)
            yield JobResult(event.job, len(memory.clips), 0, (), 0)


class _Compared:
    """Differences between what was made again and what is stored."""

    def __init__(self, root: Location) -> None:
        self.findings: list[Finding] = []
        self.differences: list[float] = []
        """Of every frame, relative."""
        self._root = root
        self._clips: list[tuple[str, str, list[float]]] = []

    def take(self, job: Job, keys: frozenset[str], kept: _Kept) -> None:
        """Compare the clips of a job that have these keys."""
        name = group_name(job.view, job.unit)
        file = read_group_file(self._root, job.view, job.unit)
        if kept.group is None:
            self._add(name, f"it cannot be made again: {kept.failure}")
            return
        if kept.group.opened.tar_sha256 != file.shard_sha256:
            self._add(name, "what it was made from has changed since; run the stage again")
            return
        rows = {key: row for row, key in enumerate(kept.group.opened.keys)}
        stored = _stored(self._root, file, sorted(keys))
        handle = GroupHandle(self._root, job.view, job.unit, file.keys, file.layout, file.sha256)
        places = {key: row for row, key in enumerate(file.keys)}
        carried = _stored_columns(handle, [places[key] for key in sorted(keys)])
        for key in sorted(keys):
            row = rows.get(key)
            if row is None or row in kept.group.invalid or row not in kept.clips:
                reason = "" if row is None else kept.group.reasons.get(row, "")
                self._add(name, f"{key} cannot be made again: {reason or 'it is not where it came from'}")
                continue
            if what := _other_view(handle, places[key], kept.group, row) or _other_columns(
                carried, file, places[key], kept.group, row
            ):
                self._add(name, f"{key} was stored with {what}")
            differences = relative_differences(stored[key], kept.clips[row].numbers)
            self.differences += differences
            self._clips.append((name, key, differences))

    def judge(self, bound: float) -> None:
        """Make findings of clips that differ by more than is allowed."""
        for name, key, differences in self._clips:
            worst = max(range(len(differences)), key=lambda frame: differences[frame])
            if not differences[worst] <= bound:  # NaN fails, too
                self._add(name, f"{key} differs from what is made of it now: frame {worst} by {differences[worst]:.2g}")

    def _add(self, name: str, reason: str) -> None:
        self.findings.append(Finding("damaged", name, reason, name))


def relative_differences(
    stored: Float[np.ndarray, "frame value"], live: Float[np.ndarray, "frame value"]
) -> list[float]:
    """Return by how much each stored frame differs, relative to the root mean square norm of the live frames.

    Infinite where a number is not finite.
    """
    usual = math.sqrt(float(np.square(live).sum()) / len(live)) or 1.0
    found = np.sqrt(np.square(stored - live).sum(axis=1)) / usual
    return [each if math.isfinite(each) else math.inf for each in found.tolist()]


def _stored(root: Location, file: GroupFile, keys: Sequence[str]) -> dict[str, Float[np.ndarray, "frame value"]]:
    """Read the stored frames of some clips of a group."""
    layout = file.layout
    handle = GroupHandle(root, file.view, file.unit, file.keys, layout, file.sha256)
    places = {key: row for row, key in enumerate(file.keys)}
    out = np.empty((len(keys), layout.frames, *layout.frame_shape), layout.bits)
    reader = make_reader(root, 1, 8)
    try:
        spans = [Span(handle, places[key], 0, layout.frames) for key in keys]
        for future in reader.start(spans, out):
            future.result()
    finally:
        reader.close()
    numbers = real_numbers(out).astype(np.float64)
    return {key: numbers[place].reshape(layout.frames, -1) for place, key in enumerate(keys)}


def _other_view(handle: GroupHandle, place: int, group: GroupFill, row: int) -> str | None:
    """Return in what a stored clip shows something else than it does now; None where it does not."""
    times = handle.small("times")[place]
    if not np.array_equal(times, group.times[row].astype(times.dtype)):  # float32 in stores of earlier versions
        return "other times"
    if handle.small("crop")[place].tolist() != group.crop[row].tolist():
        return "another crop"
    return "the other side out" if bool(handle.small("flip")[place]) != bool(group.flip[row]) else None


def _stored_columns(handle: GroupHandle, rows: Sequence[int]) -> dict[int, UInt8[np.ndarray, " byte"]]:
    """Read the numbers that clips of a group carry, by row."""
    if not handle.layout.carried_bytes or not rows:
        return {}
    out, columns = np.empty((len(rows), handle.layout.carried_bytes), np.uint8), handle.columns()
    reader = make_reader(handle.store, 1, 8)
    try:
        for future in reader.start([columns.span(row) for row in rows], out):
            future.result()
    finally:
        reader.close()
    return dict(zip(rows, out, strict=True))


def _other_columns(
    stored: Mapping[int, UInt8[np.ndarray, " byte"]], file: GroupFile, place: int, group: GroupFill, row: int
) -> str | None:
    """Return in what a stored clip carries something else than it does now; None where it does not."""
    if place in stored and not np.array_equal(stored[place], group.carried.rows[row]):
        return "other columns"
    texts = group.carried.texts
    return "other texts" if any(file.texts[name][place] != texts[name][row] for name in file.texts) else None
