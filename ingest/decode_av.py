"""Decodes chosen frames of a video on the CPU with PyAV (FFmpeg): everything that FFmpeg knows.

In come an open `Video` and the numbers of the wanted frames; out come uint8 RGB frames, turned and mirrored as the
file's metadata say. Only the packets between a wanted frame and its keyframe are decoded, and of those, where the codec
says so reliably, no frame that nothing refers to: a fifth to a half of the work of decoding all. Frames are known by
their presentation times; one that does not come, or comes damaged, is an error, never another frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from deltactl.errors import SourceError
from deltactl.ingest.colours import rgb_of_frame
from deltactl.ingest.orientation import orientation_of
from deltactl.ingest.timestamps import Video, source_errors

SKIPS_UNREFERENCED = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
"""Codecs whose FFmpeg decoder leaves out exactly the unreferenced frames when told to (libdav1d leaves out more)."""
PROGRESSIVE = 1
"""How FFmpeg numbers the field order of progressive video; 0 is not known, and what is above has fields."""
RESTART_PACKETS = 4
"""What draining and restarting the decoder costs, in packets; shorter gaps are decoded through."""


class AbsentFrameError(SourceError):
    """The decoder did not show a frame that the container announced."""


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

        SourceError where one is damaged; AbsentFrameError where one that the container announced is not shown.
        """
        with source_errors():
            found = _count_frames(video, wanted) if video.counted else _frames_by_time(video, wanted)
            for number, frame in found:
                yield number, self.picture(frame)

    def first_frame(self, video: Video) -> FirstFrame:
        """Return the first frame, with what it and its decoder say of the video; SourceError where damaged."""
        with source_errors():
            _, frame = next(_count_frames(video, [0]))
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


def _frames_by_time(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames, matched by presentation time; a second try decodes everything before the last one."""
    left = {int(video.pts[number]): number for number in wanted}
    runs = plan_runs(video, wanted)
    yield from _decode_runs(video, runs, left)
    if left and (len(runs) > 1 or runs[0].first > video.first_packet or video.codec in SKIPS_UNREFERENCED):
        video.rewind()
        last = max(int(video.packet_of[number]) for number in left.values())
        yield from _decode_runs(video, [Run(video.first_packet, last)], left, skip=False)
    if left:
        raise AbsentFrameError(f"frame {min(left.values())} is announced by the container but cannot be decoded")


def _decode_runs(
    video: Video, runs: list[Run], left: dict[int, int], *, skip: bool = True
) -> Iterator[tuple[int, Any]]:
    """Decode the packets of the runs, and yield and remove from `left` (time to number) what is found."""
    skip = skip and video.codec in SKIPS_UNREFERENCED
    pending = iter(runs)
    run = next(pending)
    earliest = 0
    for number, packet in enumerate(video.packets()):
        if number == run.first:
            earliest = packet.pts
        # Frames shown before the keyframe that precedes them lack what they refer to, and nothing refers to them.
        if number < run.first or packet.pts < earliest:
            continue
        decoder = video.decoder
        if skip:
            decoder.skip_frame = "DEFAULT" if packet.pts in left else "NONREF"
        yield from _take(decoder.decode(packet), left)
        if number == run.last:
            yield from _take(decoder.decode(None), left)
            decoder.flush_buffers()
            if (following := next(pending, None)) is None:
                return
            run = following


def _take(frames: list[Any], left: dict[int, int]) -> Iterator[tuple[int, Any]]:
    for frame in frames:
        _check_whole(frame)
        if frame.pts in left:
            yield left.pop(frame.pts), frame


def _count_frames(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames, counted as they come, for files whose packets carry no reliable times."""
    left = set(wanted)
    last = max(wanted)
    for number, frame in enumerate(_decode_all(video)):
        _check_whole(frame)
        if number in left:
            yield number, frame
        if number == last:
            return
    raise AbsentFrameError(f"frame {last} cannot be decoded")


def _decode_all(video: Video) -> Iterator[Any]:
    for packet in video.packets():
        yield from video.decoder.decode(packet)
    yield from video.decoder.decode(None)


def _check_whole(frame: Any) -> None:
    # What comes after a damaged frame, up to the next keyframe, is built from it, though it is not marked.
    if frame.is_corrupt:
        raise SourceError(f"the frame at {frame.time} s is damaged")
