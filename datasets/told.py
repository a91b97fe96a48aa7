"""Data sets that are told in a file (`configs.dataset`): the record of one, and which clips it has.

Only names in folders and lists are read, and of video files, where clips end on every N-th frame, the times of their
frames. Every stage reads the file once, when it begins.

The set is known by its file; what is made from it (shards, heads, reports) says `NAME.TASK.CLASSES` instead, from which
`described` makes as much of a record as featurizing, a head and a report need.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from deltactl.artifacts import canonical_json
from deltactl.configs.clips import Split
from deltactl.configs.dataset import DatasetConfig, read_dataset, read_dataset_bytes
from deltactl.configs.names import TOLD_NAME
from deltactl.datasets.listing import (
    Label,
    LabelledClip,
    Listing,
    Unusable,
    frames_before,
    frames_until,
    read_lines,
    refuse_repeats,
    stride,
)
from deltactl.datasets.patterns import FRAME, VideoFiles, Wanted, find_files, why_nothing
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.shards.labels import IGNORED
from deltactl.locations import Location
from deltactl.progress import counted

SHOWN = 5
"""Stored values that a message names."""
_READ: dict[str, ToldSet] = {}
"""What this process has read, by file."""


@dataclass(frozen=True, kw_only=True)
class ToldSet(LabelledSet):
    """An evaluation set that a file tells."""

    told: DatasetConfig
    place: Location
    """The file."""

    @property
    def said_as(self) -> str:
        """What files say of it; see `described`."""
        return f"{self.name}.{self.task}.{self.classes}"

    @property
    def identity(self) -> dict[str, Any]:
        """What the identity of shards says of it: the hash of what the file tells."""
        return {"told_sha256": self.told_hash}

    @property
    def told_hash(self) -> str:
        """The SHA-256 of what the file tells; with defaults it says the same as without.

        Where the data are, how they look to people and which classes are movable makes no difference to shards.
        """
        elsewhere = {"root", "title", "colours", "movable"}
        values = self.told.model_dump(mode="json", exclude=elsewhere, exclude_defaults=True)
        return hashlib.sha256(canonical_json(values)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class DescribedSet(LabelledSet):
    """What is known of a set that a file told from what was made from it."""

    @property
    def said_as(self) -> str:
        """What files say of it."""
        return f"{self.name}.{self.task}.{self.classes}"


def told_set(file: str, *, again: bool = True) -> ToldSet:
    """Return the record of the set that a file tells.

    Unless `again` is set, it is that of what the file said when this process last read it: what is edited while the
    work goes on does not change what its end makes of its beginning.

    Raises:
        ConfigError: there is no such file, or it is of another kind; one line names the file, the field and what was
            expected.
    """
    place = Location.of(file)
    if again or str(place) not in _READ:
        _READ[str(place)] = _record(str(place), read_dataset_bytes(place))
    return _READ[str(place)]


@functools.lru_cache(maxsize=16)
def _record(place: str, content: bytes) -> ToldSet:
    told = read_dataset(content, place)
    root = Location.of(told.root if _whole(told.root) else f"{Location.of(place).parent}/{told.root}")
    depth = told.task == "depth"
    known = Labels(told)
    return ToldSet(
        name=told.name,
        title=told.title or told.name,
        split="val",
        listing=functools.partial(list_clips, told),
        fps=told.fps,
        task=told.task,
        label="depth" if depth else "mask",
        target=known.metres if depth else known.class_ids,
        classes=len(told.classes),
        movable=tuple(map(told.classes.index, told.movable)),
        class_names=lambda root: told.classes,  # noqa: ARG005
        colours=tuple(told.colours.get(name) for name in told.classes) if told.colours else (),
        check=known.check,
        frame_size=told.frame_size.pair if told.frame_size else None,
        root=str(root),
        told=told,
        place=Location(place),
    )


def _whole(root: str) -> bool:
    return root.startswith(("/", "~")) or "://" in root


def described(name: str) -> LabelledSet | None:
    """Return what `NAME.TASK.CLASSES` says of a set that was told in a file; None for any other name.

    Its clips and its labels are not known from it.
    """
    match = TOLD_NAME.fullmatch(name)
    if match is None:
        return None

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ConfigError(f"{name} was told in a file; name it: --dataset FILE.yaml")

    return DescribedSet(
        name=match["name"],
        title=match["name"],
        split="val",
        listing=refuse,
        fps=1.0,
        task=match["task"],
        label="depth" if match["task"] == "depth" else "mask",
        target=refuse,
        classes=int(match["classes"]),
    )


# --- clips -----------------------------------------------------------------------------------------------------------


def list_clips(
    told: DatasetConfig,
    root: Location,
    *,
    split: Split = "val",
    split_file: Location | None = None,
    frames: int = 7,
    frames_per_step: int = 1,
) -> Listing:
    """Return the clips of a split.

    Raises:
        ConfigError: the file does not tell of the split, it is empty, or nothing is where the patterns say.
    """
    return found_files(told, root, split, split_file).clips(frames, frames_per_step)


@dataclass(frozen=True)
class FoundFiles:
    """The files of a split."""

    told: DatasetConfig
    root: Location
    names: Sequence[str]
    """Of the videos, in the order of their clips."""
    videos: Mapping[str, VideoFiles]
    labels: Mapping[str, VideoFiles]

    def clips(self, frames: int, frames_per_step: int = 1) -> Listing:
        """Return the clips; see `list_clips`."""
        listing = _Clips(self.told, self.root, frames, frames_per_step)
        clips: list[LabelledClip] = []
        unusable: list[Unusable] = []
        for video in self.names:
            found = listing.of(video, self.videos.get(video), self.labels.get(video))
            if isinstance(found, str):
                unusable.append(Unusable(video, found, len(clips)))
            else:
                clips += found
        return Listing(tuple(clips), tuple(unusable))


def found_files(told: DatasetConfig, root: Location, split: Split, split_file: Location | None = None) -> FoundFiles:
    """Return the files of a split; raises as `list_clips`."""
    listed, wanted = _wanted(told, root, split, split_file)
    pattern = told.frames or told.videos or ""
    videos = find_files(root, pattern, wanted)
    labels = find_files(root, told.labels, wanted) if told.labels else {}
    for there, of, what in ((videos, pattern, "frames" if told.frames else "videos"), (labels, told.labels, "labels")):
        if of and not there:
            why = why_nothing(root, of, wanted)
            raise ConfigError(f"{root} has no {what} of the split {split} by the pattern {of}: {why}")
    return FoundFiles(told, root, listed or sorted({*videos, *labels}), videos, labels)


def _wanted(
    told: DatasetConfig, root: Location, split: Split, split_file: Location | None
) -> tuple[list[str] | None, Wanted]:
    """Return the videos that a list names, if there is one, and what patterns are to match."""
    numbered = told.numbers == "names"
    there = told.splits.get(split)
    place = split_file or (root / there.file if there is not None and there.file else None)
    if place is not None:
        lines = read_lines(place, f"the list of the videos of the split {split}, one a line")
        refuse_repeats(place, lines)
        if not lines:
            raise ConfigError(f"{place} is empty; expected the videos of the split {split}, one a line")
        for number, video in lines:
            if "/" in video or video in (".", ".."):
                raise ConfigError(f"{place}: line {number} is {video!r}; expected what {{video}} is in the patterns")
        names = [video for _, video in lines]
        return names, Wanted(split, frozenset(names).__contains__, numbered)
    if there is not None:
        patterns = [re.compile(fnmatch.translate(each)) for each in there.videos]
        return None, Wanted(split, lambda video: any(each.fullmatch(video) for each in patterns), numbered)
    if told.splits or "{split}" not in (told.frames or told.videos or ""):
        raise ConfigError(f"{told.name} has no split {split}; its file tells of {', '.join(told.splits)}: add {split}")
    return None, Wanted(split, lambda video: True, numbered)  # noqa: ARG005


@dataclass(frozen=True)
class _Clips:
    """Lists the clips of videos."""

    told: DatasetConfig
    root: Location
    frames: int
    frames_per_step: int

    def of(self, video: str, files: VideoFiles | None, labels: VideoFiles | None) -> list[LabelledClip] | str:
        """Return the clips of one video, or why there are none."""
        told = self.told
        if files is None:
            what = f"no {'frames' if told.frames else 'video'} by the pattern {told.frames or told.videos}"
            return f"there are {counted(len(labels.files), 'labels')} of it, but {what}" if labels else what
        if told.labels and labels is None:
            return f"no labels by the pattern {told.labels}"
        try:
            names = _Names.of(told, self.root, files, labels)
        except SourceError as error:
            return f"{next(iter(files.files.values()))} {error}"
        step = stride(told.step_seconds, told.fps)
        before = frames_before(self.frames, step, self.frames_per_step)
        ends = list(names.ends(told))
        clips = [self._clip(video, names, last, step) for last in ends if last >= before + names.first]
        if not clips:
            what = f"{counted(len(ends), 'frames')} that clips may end on" + (
                f", the last is {ends[-1]}" if ends else ""
            )
            return f"no clip of {counted(before + 1, 'frames')} fits: it has {what}"
        return clips

    def _clip(self, video: str, names: _Names, last: int, step: int) -> LabelledClip:
        told = self.told
        indices = frames_until(last - names.first, self.frames, step, self.frames_per_step)
        numbers = [index + names.first for index in indices]
        labels = []
        for number in range(self.frames_per_step - 1, len(indices), self.frames_per_step) if told.labels else ():
            required = told.labelled == "all" or number == len(indices) - 1
            path = names.label(numbers[number])
            if required or path is not None:
                labels.append(Label(number, (path or names.missing_label(numbers[number]),), required))
        paths = tuple(names.frame(number) for number in numbers)
        source = names.container or paths[-1].rpartition("/")[0]
        key = f"{video}_{names.text(last)}"
        return LabelledClip(key, source, paths, indices, tuple(labels), video, names.container or "")


@dataclass(frozen=True)
class _Names:
    """The frames of one video by number, and what they and their labels are called."""

    texts: Mapping[int, str]
    """The name of each frame, as it stands in paths."""
    frames: VideoFiles
    labels: VideoFiles | None
    pattern: str
    """Of labels."""
    first: int = 0
    """Number of the first frame in the names of labels."""
    count: int | None = None
    """Frames of a video file, where it was looked into."""
    container: str | None = None
    """The video file."""

    @classmethod
    def of(cls, told: DatasetConfig, root: Location, frames: VideoFiles, labels: VideoFiles | None) -> _Names:
        """Return the names of one video.

        Raises:
            SourceError: the video file cannot be read, or two frames have one number.
        """
        container = frames.files.get("")
        names = sorted({*({} if container else frames.files), *(labels.files if labels else ())})
        texts: dict[int, str] = {}
        for place, text in enumerate(names):
            number = place if told.numbers == "order" else int(text)
            if number in texts:
                raise SourceError(f"and others have the names {texts[number]} and {text} for one frame; rename one")
            texts[number] = text
        count = None
        if container and told.clip_every is not None:
            if not root.is_local:
                raise SourceError("is not on a local disk; videos are read from disks, copy or mount them")
            from deltactl.ingest.video.timestamps import Video  # here, since it takes time and most sets have pictures

            with Video((root / container).path) as video:
                count = len(video.times)
        return cls(texts, frames, labels, told.labels or "", told.first_number, count, container)

    def ends(self, told: DatasetConfig) -> Iterator[int]:
        """Yield the numbers of the frames that clips end on."""
        if told.clip_every is None:
            labelled = self.labels.files if self.labels else {}
            yield from (n for n, text in sorted(self.texts.items()) if text in labelled and n >= (told.clip_first or 0))
            return
        first = told.clip_every - 1 + self.first if told.clip_first is None else told.clip_first
        if self.count is not None:
            yield from range(first, self.count + self.first, told.clip_every)
            return
        yield from (n for n in sorted(self.texts) if n >= first and (n - first) % told.clip_every == 0)

    def text(self, number: int) -> str:
        """Return the name of a frame; of one that is not there, as long as those of others."""
        return self.texts.get(number) or f"{number:0{len(next(iter(self.texts.values()), '000000'))}d}"

    def frame(self, number: int) -> str:
        """Return the path of a frame, whether or not it is there; of a video file also the number."""
        if self.container is not None:
            return f"{self.container}#{number - self.first}"
        return self.frames.form.replace(FRAME, self.text(number))

    def label(self, number: int) -> str | None:
        """Return the path of a frame's label; None where there is none."""
        return None if self.labels is None else self.labels.files.get(self.text(number))

    def missing_label(self, number: int) -> str:
        """Return where the label of a frame would be."""
        return (self.labels.form if self.labels else self.pattern).replace(FRAME, self.text(number))


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """What stored labels mean."""

    told: DatasetConfig

    @functools.cached_property
    def table(self) -> UInt8[np.ndarray, " 256"]:
        """The class id of each stored value, `IGNORED` where none counts."""
        table = np.full(256, IGNORED, np.uint8)
        for stored, number in (self.told.ids or dict(enumerate(range(len(self.told.classes))))).items():
            table[stored] = number
        return table

    def class_ids(self, label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the class ids of a label."""
        return np.asarray(self.table[label])

    def metres(self, label: Shaped[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """Return the depth in metres of a label, 0 where it does not count."""
        assert self.told.depth_scale is not None
        depth = label.astype(np.float32) / np.float32(self.told.depth_scale)
        if self.told.depth_range is None:
            return depth
        low, high = self.told.depth_range
        return np.where((depth > low) & (depth < high), depth, np.float32(0))

    def check(self, label: Shaped[np.ndarray, "h w"]) -> str | None:
        """Return what a stored label has that it must not have; None where all is well."""
        if self.told.task != "segmentation" or self.told.other_ids == "ignore":
            return None
        counts = np.bincount(label.ravel(), minlength=256)
        counts[[*np.flatnonzero(self.table != IGNORED), *self.told.ignore]] = 0
        others = np.flatnonzero(counts)
        if not len(others):
            return None
        shown = ", ".join(f"{value} ({counted(int(counts[value]), 'pixels')})" for value in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        of = f"those of the {len(self.told.classes)} classes and what is ignored"
        return f"has other values than {of}: {shown}{more}; add them to ids or ignore, or say other_ids: ignore"
