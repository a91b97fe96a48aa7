"""Decodes chosen frames of a video on the CPU with PyAV (FFmpeg): everything that FFmpeg knows.

Takes an open `Video` and the numbers of the wanted frames, yields uint8 RGB frames, turned and mirrored as the file's
metadata say. Only the packets between a wanted frame and its keyframe are decoded, and of those no frame that nothing
refers to, if the codec marks them reliably: a fifth to a half of the work of decoding all. Frames are identified by
their presentation times. A frame that is missing, damaged, or predicted from a damaged one is an error that says when
it is shown; another frame never takes its place. Frames after the next keyframe are whole again.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.error import FFmpegError, InvalidDataError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from deltactl.errors import SourceError
from deltactl.ingest.video.colours import rgb_of_frame
from deltactl.ingest.video.orientation import orientation_of
from deltactl.ingest.video.timestamps import Video, source_errors

SKIPS_UNREFERENCED = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
"""Codecs whose FFmpeg decoder leaves out exactly the unreferenced frames when told to (libdav1d leaves out more)."""
PROGRESSIVE = 1
"""How FFmpeg numbers the field order of progressive video; 0 is not known, and what is above has fields."""
RESTART_PACKETS = 4
"""What draining and restarting the decoder costs, in packets; shorter gaps are decoded through."""


HELD_FRAMES = 16
"""A wanted frame is held back until so many more came, as many as codecs reorder: one of them may be what it is built
on, and damaged."""


class AbsentFrameError(SourceError):
    """The decoder did not show a frame that the container announced."""


class DamagedFramesError(SourceError):
    """Frames that cannot be decoded, or are built on some that cannot."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = dict(reasons)
        """Why, by the frames' numbers."""

    def __reduce__(self) -> tuple[type[DamagedFramesError], tuple[dict[int, str]]]:
        return DamagedFramesError, (self.reasons,)


@dataclass(frozen=True)
class Run:
    """Packets to decode without a break: numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class FirstFrame:
    """What the first frame of a video tells of all of them."""

    frame: Any
    """PyAV's `VideoFrame`."""
    interlaced: bool
    """Whether it consists of two fields, or the stream says that its frames do."""
    coded_size: tuple[int, int]
    """Height and width of the coded picture, from which the frame is cut."""


class PyAVDecoder:
    """Decodes on the CPU, in this process and one thread."""

    name = "pyav"

    def __init__(self) -> None:
        # Kept, so that the conversion to RGB is set up once for videos of one size and format.
        self._reformatter = VideoReformatter()

    def frames(self, video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Yield each wanted frame (distinct, sorted numbers) with its number.

        Raises:
            DamagedFramesError: some frames are damaged; raised at the end, when all others have been yielded.
            AbsentFrameError: the decoder does not show a frame that the container announced.
            SourceError: the file cannot be read.
        """
        damaged: dict[int, str] = {}
        with source_errors():
            found = _count_frames(video, wanted) if video.counted else _frames_by_time(video, wanted)
            for number, frame in found:
                if isinstance(frame, str):
                    damaged[number] = frame
                else:
                    yield number, self.picture(frame)
        if damaged:
            raise DamagedFramesError(damaged)

    def first_frame(self, video: Video) -> FirstFrame:
        """Return the first frame, with what it and its decoder say of the video.

        Raises:
            SourceError: the frame is damaged.
        """
        with source_errors():
            # Of a part of a file the first frame need not be the first that is decoded.
            _, frame = next(_count_frames(video, [0]) if video.window is None else _frames_by_time(video, [0]))
            if isinstance(frame, str):
                raise DamagedFramesError({0: frame})
            decoder = video.decoder
            interlaced = bool(frame.interlaced_frame) or int(decoder.field_order) > PROGRESSIVE
            coded = int(decoder.coded_height), int(decoder.coded_width)
            video.restart()
            return FirstFrame(frame, interlaced, coded)

    def picture(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Return a decoded frame (PyAV's `VideoFrame`) as RGB, turned as it is meant to be seen."""
        return orientation_of(frame).apply(rgb_of_frame(frame, self._reformatter))


def plan_runs(video: Video, wanted: Sequence[int]) -> list[Run]:
    """Return the packets that must be decoded to see the wanted frames, in order."""
    spans = [Run(int(video.start_of[number]), int(video.packet_of[number])) for number in wanted]
    return join_runs(spans, RESTART_PACKETS)


def join_runs(spans: Sequence[Run], gap: int) -> list[Run]:
    """Return the spans in order, with those joined that overlap or have at most `gap` packets between them."""
    runs: list[Run] = []
    for span in sorted(spans, key=lambda span: span.last):
        first = span.first
        while runs and first <= runs[-1].last + gap:
            first = min(first, runs.pop().first)
        runs.append(Run(first, span.last))
    return runs


class _Damage:
    """What could not be decoded of a video so far, by the numbers of its packets, in decoding order."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._reasons: dict[int, str] = {}

    def lose(self, number: int, reason: str) -> None:
        """Take note of a packet of which no frame comes; it does harm if other frames may be built on it."""
        if not self._video.leaves_others_whole(number):
            self._reasons[number] = reason

    def lose_empty(self, number: int) -> None:
        """Take note of a packet that holds no picture, perhaps in the place of one."""
        self.lose(number, "a packet before it holds no picture, where one is missing")

    def spoil(self, number: int, reason: str) -> None:
        """Take note of a packet whose frame comes damaged, and spoils what is built on it."""
        self._reasons[number] = reason

    def reason(self, first: int, last: int) -> str | None:
        """Return why a frame is not whole that takes these packets, both included; None if it is."""
        return next((reason for number, reason in self._reasons.items() if first <= number <= last), None)


def _frames_by_time(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames, matched by presentation time; a second try decodes everything before the last one.

    In the place of one that is not whole comes the reason, a text.
    """
    left = {int(video.pts[number]): number for number in wanted}
    runs = plan_runs(video, wanted)
    damage = _Damage(video)
    yield from _decode_runs(video, runs, left, damage)
    if left and (len(runs) > 1 or runs[0].first > video.first_packet or video.codec in SKIPS_UNREFERENCED):
        video.rewind()
        damage = _Damage(video)
        last = max(int(video.packet_of[number]) for number in left.values())
        yield from _decode_runs(video, [Run(video.first_packet, last)], left, damage, skip=False)
    for pts, number in sorted(left.items()):
        if reason := _reason(video, number, damage):
            del left[pts]
            yield number, f"the frame {video.seconds_of(pts)} cannot be decoded whole: {reason}"
    if left:
        pts, number = min(left.items())
        raise AbsentFrameError(
            f"frame {number}, {video.seconds_of(pts)}, is announced by the container but cannot be decoded"
        )


def _reason(video: Video, number: int, damage: _Damage) -> str | None:
    return damage.reason(int(video.start_of[number]), int(video.packet_of[number]))


def _decode_runs(
    video: Video, runs: list[Run], left: dict[int, int], damage: _Damage, *, skip: bool = True
) -> Iterator[tuple[int, Any]]:
    """Decode the packets of the runs, and yield and remove from `left` (time to number) what comes whole."""
    skip = skip and video.codec in SKIPS_UNREFERENCED
    pending = iter(runs)
    run = next(pending)
    earliest = 0
    packet_at = dict(zip(video.pts.tolist(), video.packet_of.tolist(), strict=True))
    held: deque[tuple[int, Any]] = deque()
    come = 0

    def decode(number: int, packet: Any) -> None:
        nonlocal come
        try:
            frames = video.decoder.decode(packet)
        except FFmpegError as error:
            damage.lose(number, _fault(video.seconds_of(None if packet is None else packet.pts), error))
            return
        for frame in frames:
            if frame.is_corrupt:
                at = packet_at.get(frame.pts, number)
                damage.spoil(at, _fault(video.seconds_of(frame.pts)))
            come += 1
            if frame.pts in left:
                held.append((come, frame))

    def release(most: int) -> Iterator[tuple[int, Any]]:
        while held and come - held[0][0] >= most:
            _, frame = held.popleft()
            number = left.get(frame.pts)
            if number is not None and _reason(video, number, damage) is None:
                del left[frame.pts]
                yield number, frame

    for number, packet in enumerate(video.packets()):
        if number == run.first:
            earliest = packet.pts
        # Frames shown before the keyframe that precedes them lack what they refer to, and nothing refers to them.
        if number < run.first or (packet.pts < earliest and number not in video.leading):
            continue
        decoder = video.decoder
        if skip:
            decoder.skip_frame = "DEFAULT" if packet.pts in left else "NONREF"
        if number in video.empty:
            damage.lose_empty(number)
            with contextlib.suppress(FFmpegError):  # it may hold parameters of later ones
                decoder.decode(packet)
        else:
            decode(number, packet)
        yield from release(HELD_FRAMES)
        if number == run.last:
            decode(number, None)
            yield from release(0)
            decoder.flush_buffers()
            if (following := next(pending, None)) is None:
                return
            run = following


def _count_frames(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames, counted as they come, for files whose packets carry no reliable times.

    In the place of one that is not whole comes the reason, a text.
    """
    left = set(wanted)
    last = max(wanted)
    damage = _Damage(video)
    held: deque[tuple[int, int, int, Any]] = deque()
    begin = count = 0

    def release(most: int) -> Iterator[tuple[int, Any]]:
        while held and count - held[0][0] > most:
            number, first, at, frame = held.popleft()
            reason = damage.reason(first, at)
            moment = _moment(video, number)
            yield number, frame if reason is None else f"the frame {moment} cannot be decoded whole: {reason}"

    for number, packet in enumerate(itertools.chain(video.packets(), [None])):
        decoder = video.decoder
        decoder.copy_opaque = True  # so that a frame tells its packet
        if number in video.empty:
            damage.lose_empty(number)
        if packet is not None:
            packet.opaque = number
        try:
            frames = decoder.decode(packet)
        except FFmpegError as error:
            if number not in video.empty:
                damage.lose(number, _fault(video.seconds_of(None if packet is None else packet.pts), error))
            continue
        for frame in frames:
            at = number if frame.opaque is None else int(frame.opaque)
            if frame.is_corrupt:
                damage.spoil(at, _fault(_moment(video, count)))
            elif frame.key_frame:
                begin = max(begin, at)
            if count in left:
                held.append((count, begin, at, frame))
            count += 1
        # A lone keyframe is built on nothing that may still turn out damaged.
        yield from release(0 if len(held) == 1 and held[0][3].key_frame else HELD_FRAMES)
        if count > last + HELD_FRAMES or (count > last and not held):
            break
    yield from release(0)
    if count <= last:
        raise AbsentFrameError(f"frame {last} cannot be decoded")


def _fault(moment: str, error: FFmpegError | None = None) -> str:
    """Return what is wrong with a picture, the same whether the decoder raised an error or marked the frame."""
    if error is None or isinstance(error, InvalidDataError):
        return f"the picture {moment} is damaged"
    return f"the picture {moment} is not decoded ({error.strerror})"


def _moment(video: Video, number: int) -> str:
    """Return when a counted frame is shown, in words."""
    return f"at {video.times[number]:.6g} s" if number < len(video.times) else f"number {number}"
