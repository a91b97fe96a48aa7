"""The frames that a prediction starts from: chosen moments of one video or folder of frames.

Takes a path and the wanted moments, returns those frames as uint8 RGB, cropped and resized for the backbone, with their
times; and, as far as the video goes on, the frames that are to be predicted. Only these are decoded, by ingest's PyAV
decoder, with its list of trusted containers, in a child process, which a damaged file may crash.

For a backbone that makes one step of features from several frames, a moment is that of a step's last frame; its other
frames lie before it, evenly within the stride.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.listing import frames_until
from deltactl.engine import Child
from deltactl.errors import SourceError, WorkerDiedError, WorkerTimeoutError
from deltactl.ingest.shards.geometry import Box, centre_crop, cut, resize, whole_frame
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.video.decode_av import AbsentFrameError, PyAVDecoder
from deltactl.ingest.video.frames import open_frame_folder, read_frame
from deltactl.ingest.video.timestamps import Video
from deltactl.progress import counted

CropChoice = Literal["centre", "whole"]
TIME_LIMIT_SECONDS = 300.0
LARGEST_ASPECT = 4
"""A whole frame may be this many times as long as it is short."""
MOST_FRAMES = 4000
"""Of a whole video; they are held in memory."""
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class Wanted:
    """Which moments of a video, in seconds from its first frame."""

    context: int
    """Frames to start from."""
    horizon: int
    """Frames to predict."""
    stride_seconds: float
    at_seconds: float | None
    """When the last context frame is shown; None for the end of the video."""
    frames_per_step: int = 1
    """Frames that the backbone makes one step of features from."""


@dataclass(frozen=True)
class Throughout:
    """All moments of a video that lie a stride apart, in seconds from its first frame."""

    stride_seconds: float
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None for the end of the video."""
    least: int = 1
    """Frames that there must be."""
    frames_per_step: int = 1
    """Frames that the backbone makes one step of features from."""


@dataclass(frozen=True)
class Moments:
    """Frames of a video by number, and when they are shown, in seconds from its first frame."""

    context: tuple[int, ...]
    truth: tuple[int, ...]
    """As many of the frames to predict as the video has."""
    context_times: tuple[float, ...]
    future_times: tuple[float, ...]
    """Of every frame to predict: the video's own as far as it goes, then one stride apart."""
    earlier: tuple[tuple[int, ...], ...] = ()
    """Of each step of `context`, then of `truth`: its frames before the last; empty where a step is one frame."""

    @property
    def frames(self) -> tuple[int, ...]:
        """All frames that are read, in order."""
        return tuple(sorted({*self.context, *self.truth, *itertools.chain(*self.earlier)}))


@dataclass(frozen=True)
class ReadTask:
    """What to read, and how to cut it."""

    path: Path
    wanted: Wanted | Throughout
    crop: CropChoice
    size: FrameSize
    """What a centre crop is resized to. Of whole frames a square size says the short side."""
    patch: int
    """Both sides end as multiples of this."""
    frames_per_second: float | None = None
    """Rate of a folder whose files are numbered; None where their names carry seconds."""


@dataclass(frozen=True)
class ContextFrames:
    """What was read."""

    moments: Moments
    pixels: UInt8[np.ndarray, "T H W 3"]
    """Context, then truth."""
    original_size: tuple[int, int]
    """Height and width of the video's frames."""
    box: Box
    """The part of them that is used."""
    decoder: str
    earlier: UInt8[np.ndarray, "T f H W 3"] | None = None
    """The frames of each step before its last; None where a step is one frame."""

    @property
    def steps(self) -> UInt8[np.ndarray, "T F H W 3"]:
        """All frames of each step, as the backbone takes them."""
        last = self.pixels[:, None]
        return last if self.earlier is None else np.concatenate([self.earlier, last], axis=1)

    @property
    def share(self) -> float:
        """The share of the frame's area that is used."""
        return self.box.height * self.box.width / (self.original_size[0] * self.original_size[1])


def read_context(task: ReadTask) -> ContextFrames:
    """Return the frames of a task.

    Raises:
        SourceError: they cannot be had; the message names the video.
    """
    try:
        with Child(ContextReader()) as child:
            return child.call(task, TIME_LIMIT_SECONDS, deaths=2)
    except SourceError as error:
        raise SourceError(f"{task.path}: {error}") from error
    except WorkerDiedError as error:
        raise SourceError(f"{task.path}: the decoder crashed ({error}); the file is damaged") from error
    except WorkerTimeoutError as error:
        raise SourceError(f"{task.path}: decoding took longer than {TIME_LIMIT_SECONDS:g} s") from error


def choose_moments(times: Float[np.ndarray, " frames"], wanted: Wanted | Throughout) -> Moments:
    """Return the moments nearest to the wanted ones; `times` are those of all frames, sorted, in seconds.

    Raises:
        SourceError: the video is too short, or its frames are too far apart.
    """
    if isinstance(wanted, Throughout):
        return _throughout(times, wanted)
    times = times - times[0]
    length, stride = float(times[-1]), wanted.stride_seconds
    # A frame counts until halfway to the next one; a little more, since times are rounded.
    tolerance = 0.51 * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    end = length if wanted.at_seconds is None else wanted.at_seconds
    if end > length + tolerance:
        raise SourceError(f"--at {end:g} is beyond its last frame, which is shown at {length:.4g} s")
    span = (wanted.context - 1) * stride + (wanted.frames_per_step - 1) * stride / wanted.frames_per_step
    if end - span < -tolerance:
        there = f"is {length:.4g} s long" if wanted.at_seconds is None else f"has {end:.4g} s before --at"
        remedy = "a smaller --stride or --context" + ("" if wanted.at_seconds is None else ", or a later --at")
        each = "frames" if wanted.frames_per_step == 1 else f"steps of {wanted.frames_per_step} frames"
        raise SourceError(f"{there}; {wanted.context} {each} {stride:g} s apart need {span:.4g} s: use {remedy}")
    context = [nearest(times, end - stride * ago) for ago in reversed(range(wanted.context))]
    for before, after in itertools.pairwise(context):
        if before == after:
            gap = float(np.diff(times[max(0, before - 1) : before + 2]).max())
            raise SourceError(
                f"its frames are up to {gap:.4g} s apart, so that --stride {stride:g} would take one of them twice; "
                "use a larger --stride"
            )
    known, future = list(context), [float(times[context[-1]])]
    for step in range(wanted.horizon):
        target = future[-1] + stride
        frame = nearest(times, target)
        goes_on = len(known) == len(context) + step
        if goes_on and frame > known[-1] and abs(times[frame] - target) <= tolerance:
            known.append(frame)
            target = float(times[frame])
        future.append(target)
    return Moments(
        context=tuple(context),
        truth=tuple(known[len(context) :]),
        context_times=tuple(float(times[frame]) for frame in context),
        future_times=tuple(future[1:]),
        earlier=_earlier(times, known, wanted) if wanted.frames_per_step > 1 else (),
    )


def _throughout(times: Float[np.ndarray, " frames"], wanted: Throughout) -> Moments:
    """Return every stride-th moment of a video, all as context."""
    times = times - times[0]
    stride, length = wanted.stride_seconds, float(times[-1])
    tolerance = 0.51 * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    # The first step of several frames needs those before its last one.
    first = wanted.start_seconds + (wanted.frames_per_step - 1) * stride / wanted.frames_per_step
    end = length if wanted.end_seconds is None else min(wanted.end_seconds, length)
    count = 1 + int((end - first + tolerance) / stride) if end - first >= -tolerance else 0
    if count < wanted.least:
        asked = wanted.start_seconds > 0 or wanted.end_seconds is not None
        raise SourceError(
            f"is {length:.4g} s long{' and has ' if asked else ', which is '}{counted(count, 'frames')} {stride:g} s "
            f"apart{' between --start and --end' if asked else ''}; {wanted.least} are needed, the context and what "
            "comes after it: use a smaller --stride or --context"
        )
    if count > MOST_FRAMES:
        raise SourceError(
            f"has {count:,} frames {stride:g} s apart, and at most {MOST_FRAMES:,} are read at once; choose some with "
            "--start and --end, or use a larger --stride"
        )
    chosen = [nearest(times, first + stride * number) for number in range(count)]
    if len(set(chosen)) < count:
        gap = float(np.diff(times).max())
        raise SourceError(
            f"its frames are up to {gap:.4g} s apart, so that --stride {stride:g} would take one of them twice; "
            "use a larger --stride"
        )
    steps = Wanted(count, 0, stride, None, wanted.frames_per_step)
    return Moments(
        context=tuple(chosen),
        truth=(),
        context_times=tuple(float(times[frame]) for frame in chosen),
        future_times=(),
        earlier=_earlier(times, chosen, steps) if wanted.frames_per_step > 1 else (),
    )


def _earlier(times: Float[np.ndarray, " frames"], lasts: Sequence[int], wanted: Wanted) -> tuple[tuple[int, ...], ...]:
    """Return the frames of each step before its last, in numbers of frames as those of evaluation sets.

    They are spread over the frames since the step before; of the first step, over as many as of the second.

    Raises:
        SourceError: there are too few frames between two steps.
    """
    distances = [after - before for before, after in itertools.pairwise(lasts)]
    distances = [*distances[:1], *distances] or [
        lasts[0] - nearest(times, float(times[lasts[0]]) - wanted.stride_seconds)
    ]
    fewest = min(distances)
    if fewest < wanted.frames_per_step:
        raise SourceError(
            f"--stride {wanted.stride_seconds:g} leaves {counted(fewest, 'frames')} for a step, which the backbone "
            f"makes from {wanted.frames_per_step}; use a larger --stride"
        )
    try:
        steps = [frames_until(*each, wanted.frames_per_step) for each in zip(lasts, itertools.repeat(1), distances)]
    except ValueError:
        raise SourceError(
            "its first step would begin before it does; use a smaller --context, or a later --at"
        ) from None
    return tuple(numbers[:-1] for numbers in steps)


def nearest(times: Float[np.ndarray, " frames"], moment: float) -> int:
    """Return the number of the frame whose time is nearest; of two, the earlier."""
    return int(np.abs(times - moment).argmin())


def choose_crop(height: int, width: int, crop: CropChoice, size: FrameSize, patch: int) -> tuple[Box, tuple[int, int]]:
    """Return the part of a frame that is used and the (height, width) that it is resized to.

    `centre` is the largest part of the size's own aspect, in the middle: squares of a square size. `whole` is
    everything: at a size that is no square exactly that; else at multiples of the patch size that nearly keep the
    aspect.

    Raises:
        SourceError: a whole frame is too long.
    """
    if crop == "centre":
        return centre_crop(height, width, size.aspect), size.pair
    if not size.square:
        return whole_frame(height, width), size.pair
    short, long = min(height, width), max(height, width)
    if long > LARGEST_ASPECT * short:
        raise SourceError(
            f"its frames have {height} × {width} pixels (height × width), more than {LARGEST_ASPECT} times as long as "
            "short; use --crop centre"
        )
    shorter, longer = size.height, max(1, round(long * size.height / short / patch)) * patch
    return whole_frame(height, width), (shorter, longer) if height <= width else (longer, shorter)


class ContextReader:
    """Reads the frames of one task; an engine worker, for a child process."""

    def start(self, slot: int) -> None:  # noqa: ARG002 (every worker alike)
        """Prepare for decoding in one thread."""
        import cv2

        cv2.setNumThreads(1)

    def run(self, task: ReadTask) -> ContextFrames:
        """Return the frames; raises SourceError for a file that cannot be used."""
        if task.path.is_dir():
            return _read_folder(task)
        try:
            with Video(task.path) as video:
                return _read_video(task, video)
        except AbsentFrameError:
            # The container announced frames that are not there: look which ones there are.
            with Video(task.path, by_decoding=True) as video:
                return _read_video(task, video)


def _read_video(task: ReadTask, video: Video) -> ContextFrames:
    moments = choose_moments(video.times, task.wanted)
    decoder = PyAVDecoder()
    frames = dict(decoder.frames(video, list(moments.frames)))
    return _assemble(task, moments, frames, decoder.name)


def _read_folder(task: ReadTask) -> ContextFrames:
    times, read = _named_frames(task) if task.frames_per_second is None else _numbered_frames(task)
    moments = choose_moments(times, task.wanted)
    return _assemble(task, moments, {number: read(number) for number in moments.frames}, "opencv")


Reader = Callable[[int], UInt8[np.ndarray, "h w 3"]]


def _named_frames(task: ReadTask) -> tuple[Float[np.ndarray, " frames"], Reader]:
    try:
        sequence = open_frame_folder(task.path)
    except SourceError as error:
        raise SourceError(f"{error}; for files that are numbered instead, give their rate with --fps") from error
    return sequence.times, lambda number: decode_frame_file(sequence.read(number), sequence.names[number])


def _numbered_frames(task: ReadTask) -> tuple[Float[np.ndarray, " frames"], Reader]:
    assert task.frames_per_second is not None
    paths = sorted(
        (path for path in task.path.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."),
        key=lambda path: _natural(path.name),
    )
    if not paths:
        raise SourceError("holds no frames; JPEG or PNG files were expected")
    times = np.arange(len(paths)) / task.frames_per_second
    return times, lambda number: decode_frame_file(read_frame(paths[number]), paths[number].name)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `frame10` after `frame9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _assemble(
    task: ReadTask, moments: Moments, frames: Mapping[int, UInt8[np.ndarray, "h w 3"]], decoder: str
) -> ContextFrames:
    shapes = {frame.shape for frame in frames.values()}
    if len(shapes) > 1:
        raise SourceError("its frames differ in size")
    height, width = shapes.pop()[:2]
    box, (new_height, new_width) = choose_crop(height, width, task.crop, task.size, task.patch)
    made = {
        number: resize(np.ascontiguousarray(cut(frame, box)), new_height, new_width) for number, frame in frames.items()
    }
    pixels = np.stack([made[number] for number in (*moments.context, *moments.truth)])
    earlier = (
        np.stack([np.stack([made[each] for each in step]) for step in moments.earlier]) if moments.earlier else None
    )
    return ContextFrames(moments, pixels, (height, width), box, decoder, earlier)
