"""Clips of labelled data sets into shards, as their owners publish them, frames lossless.

Takes the config of an ingest, returns a plan and the `ClipMaker` that fills it. A clip's frames are decoded, cut if the
set uses only a part of them, resized to the evaluation size (`geometry.evaluation_size`) and stored as PNG; the files
of its labels are checked and stored byte for byte, uncut, at their own size and depth (the set's record says what they
mean). A clip with a file that is missing, damaged or of another size than the rest, or whose name makes no valid key,
is quarantined and named.

Cost, for a VSPW clip of 7 frames at 512 px on one core: about 0.3 s, most of it PNG encoding, and 5 MB.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8

from deltactl.artifacts import Quarantined, written
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import labelled_set, planned_set
from deltactl.datasets.listing import Label, LabelledClip
from deltactl.datasets.record import LabelledSet
from deltactl.errors import ConfigError, SourceError, StorageError
from deltactl.ingest.record import Generation
from deltactl.ingest.shards.format import Clip, ClipMeta
from deltactl.ingest.shards.geometry import evaluation_size, resize
from deltactl.ingest.shards.images import check_complete, decode_frame_file, decode_label, picture_size
from deltactl.ingest.shards.keys import key_fault
from deltactl.ingest.shards.labels import by, check_label, check_label_size
from deltactl.ingest.units import Plan, UnitLog, UnitPlan, hash_names, split_into_units, unit_name
from deltactl.locations import Location
from deltactl.progress import counted
from deltactl.reading import PICTURE, UnreadableError, reason_of

PNG_LEVEL = 1
"""zlib's fastest: on a frame of 512 × 910 pixels, level 6 takes 1.5 × as long and saves 2 % of the bytes."""
PNG_BYTES_PER_PIXEL = 1.6
"""Of three, for natural frames; an estimate for `--dry-run`."""


def plan_evaluation(config: IngestConfig) -> Plan:
    """Return what an ingest of an evaluation set makes. `config` is resolved (`settle.resolved`).

    Raises:
        ConfigError: the tree or split file is missing or of another kind, or an option does not go with the set.
    """
    root = Location.of(config.paths[0])
    assert config.dataset is not None
    dataset = labelled_set(config.dataset)
    if config.exclude:
        raise ConfigError(f"--exclude is {config.exclude}, but {dataset.name} is taken whole; leave it out")
    assert config.frames is not None
    steps = written(frames_per_step=config.frames_per_step)
    if steps and "frames_per_step" not in inspect.signature(dataset.listing).parameters:
        raise ConfigError(
            f"{dataset.title} has no clips for backbones that make one step from several frames: its listing takes no "
            "frames_per_step; leave out --frames-per-step, or take a backbone of single frames"
        )
    listing = dataset.listing(
        root,
        split=config.split or "val",
        split_file=Location.of(config.split_file) if config.split_file else None,
        frames=config.frames,
        **steps,
    )
    frames = config.frames * config.frames_per_step
    per_unit = config.shard_clips
    if not listing.clips:
        first = f" ({listing.unusable[0].reason})" if listing.unusable else ""
        raise ConfigError(
            f"{root} has no clips of {counted(config.frames, 'frames')} of {config.dataset} {config.split}; expected a "
            f"whole data set, and videos that have so many frames before a labelled one{first}"
        )
    repeated = [key for key, times in Counter(clip.key for clip in listing.clips).items() if times > 1]
    if repeated:
        raise ConfigError(f"{root}: two clips of {config.dataset} would be called {repeated[0]}; rename one of them")
    units = split_into_units(listing.clips, items_per_unit=per_unit)
    return Plan(
        dataset=dataset.name,
        root=str(root),
        units=units,
        sources=len(listing.clips) + len(listing.unusable),
        identity={
            "dataset": dataset.said_as,
            **dataset.identity,
            "split": config.split,
            "frames": frames,
            **written(frames_per_step=config.frames_per_step),
            "size": config.size.value,
            "shard_clips": per_unit,
            "sources": hash_names(name for clip in listing.clips for name in clip.names),
        },
        clip_bytes=round(PNG_BYTES_PER_PIXEL * _likely_pixels(config.size)) * frames,
        maker=EvaluationClips(root, config.dataset, config.size, dataset.identity),
        quarantined=tuple(
            Quarantined(bad.source, bad.reason, unit_name(min(bad.clips_before // per_unit, len(units) - 1)))
            for bad in listing.unusable
        ),
        record=(Generation(tuple(clip.key for clip in listing.clips)).to_json(),),
    )


@dataclass
class EvaluationClips:
    """The `ClipMaker` of the evaluation sets: its items are `LabelledClip`s."""

    root: Location
    dataset: str
    size: FrameSize
    """What evaluation frames are stored for; see `evaluation_size`."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """That of the record by which the clips were planned."""
    _threads: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_record"}

    @cached_property
    def _record(self) -> LabelledSet:  # looked up where it is used: records need not survive a pickle
        return planned_set(self.dataset, self.identity)

    def start(self, slot: int) -> None:  # noqa: ARG002 (no devices to choose from)
        """Keep OpenCV to one thread: each worker process has a core of its own."""
        import cv2

        self._threads = cv2.getNumThreads()
        cv2.setNumThreads(1)

    def close(self) -> None:
        """Give OpenCV its threads back."""
        import cv2

        if self._threads is not None:
            cv2.setNumThreads(self._threads)

    def clips(self, unit: UnitPlan, log: UnitLog) -> Iterator[Clip]:
        """Yield the clips of `unit`; those with a file that cannot be used go to `log.quarantined`."""
        for item in unit.items:
            try:
                yield self.make(item, log)
            except SourceError as error:
                log.quarantined.append(Quarantined(item.frames[-1], str(error), unit.name))

    def make(self, item: LabelledClip, log: UnitLog) -> Clip:
        """Return one clip.

        Raises:
            SourceError: its key, a frame or a required label cannot be used; the message names it.
        """
        if fault := key_fault(item.key):
            raise SourceError(f"its key would be {item.key!r}, which {fault}; rename the file or folder")
        frames: list[bytes] = []
        original: tuple[int, int] | None = None
        for path, frame in self._frames(item, log):
            size = (frame.shape[0], frame.shape[1])
            if self._record.frame_size not in (None, size):
                wanted = by(self._record.frame_size or ())
                raise SourceError(f"frame {path} is {by(size)} pixels, but frames of {self._record.title} are {wanted}")
            if original is not None and size != original:
                raise SourceError(f"frame {path} is {by(size)} pixels but {item.frames[0]} is {by(original)}")
            original = size
            with _timed(log, "resize"):
                stored = self._stored(frame, path)
            with _timed(log, "encode"):
                frames.append(_encode_png(stored))
        assert original is not None, f"clip {item.key} has no frames"
        labels = {}
        for label in item.labels:
            with _timed(log, "labels"):
                found = self._label(label, original)
            if found is not None:
                labels[label.frame] = found
        meta = ClipMeta(
            source=item.source,
            dataset=self._record.said_as,
            times=tuple(index / self._record.fps for index in item.indices),
            indices=item.indices,
            original_size=original,
            decoder="pyav" if item.container else "opencv",
        )
        return Clip(item.key, meta, frames, "png", labels, self._record.label, item.video or item.source)

    def _frames(self, item: LabelledClip, log: UnitLog) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yield the name and the pixels of each frame."""
        if item.container:
            with _timed(log, "decode"):
                decoded = decode_frames(self.root, item.container, item.indices)
            yield from zip(item.frames, decoded, strict=True)
            return
        for path in item.frames:
            with _timed(log, "read"):
                data = self._read(path)
            if data is None:
                raise SourceError(f"frame {path} is missing")
            with _timed(log, "decode"):
                frame = decode_frame_file(data, path)
            yield path, frame

    def _stored(self, frame: UInt8[np.ndarray, "h w 3"], path: str) -> UInt8[np.ndarray, "h2 w2 3"]:
        try:
            frame = self._record.cut(frame)
        except ValueError as error:
            raise SourceError(f"frame {path} cannot be cut: {error}") from error
        return resize(frame, *evaluation_size(frame.shape[0], frame.shape[1], self.size))

    def _label(self, label: Label, size: tuple[int, int]) -> bytes | None:
        """Return the file of a label as it is; None if it is missing and may be."""
        for path in label.paths:
            data = self._read(path)
            if data is None:
                continue
            check_complete(data, path)
            check_label_size(picture_size(data, f"label {path}"), size, path)
            try:
                picture = decode_label(data)
            except SourceError as error:
                raise SourceError(f"label {path} cannot be decoded: {error}") from error
            check_label(picture, self._record.label_bits, size, path)
            if self._record.check is not None and (fault := self._record.check(picture)):
                raise SourceError(f"label {path} {fault}")
            return data
        if label.required:
            raise SourceError(f"label {' or '.join(label.paths)} is missing")
        return None

    def _read(self, path: str) -> bytes | None:
        """Return a file of the data set, None if it is not there."""
        place = self.root / path
        try:
            return place.read_bytes(PICTURE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, StorageError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            # Where the store is down, that says nothing about this file.
            if not place.is_local and not isinstance(reason, UnreadableError):
                raise
            said = reason_of(reason) if isinstance(reason, OSError) else f"cannot be read: {error}"
            raise SourceError(f"{path} {said}") from error


def decode_frames(root: Location, container: str, indices: Sequence[int]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return frames of a video file by their numbers, counted from 0.

    Raises:
        SourceError: it cannot be read, or lacks one of them; the message names the file.
    """
    from deltactl.ingest.video.decode_av import PyAVDecoder  # here, since most sets have pictures
    from deltactl.ingest.video.timestamps import Video

    if not root.is_local:
        raise SourceError(f"{container} is not on a local disk; videos are read from disks, copy or mount them")
    try:
        with Video((root / container).path) as video:
            if max(indices) >= len(video.times):
                count = counted(len(video.times), "frames")
                raise SourceError(f"has {count}, and the clip needs the one after {max(indices):,} others")
            found = dict(PyAVDecoder().frames(video, sorted(set(indices))))
    except SourceError as error:
        raise SourceError(f"{container} {error}") from error
    return [found[index] for index in indices]


def _likely_pixels(size: FrameSize) -> float:
    """Return about how many pixels a stored frame has: that of a square size is 1.8 times as long as it is short."""
    return size.pixels * (1.8 if size.square else 1.0)


def _encode_png(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    assert done, "OpenCV encodes every uint8 picture as PNG"
    return data.tobytes()


@contextlib.contextmanager
def _timed(log: UnitLog, part: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    log.add_seconds(part, time.perf_counter() - began)
