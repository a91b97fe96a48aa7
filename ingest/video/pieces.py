"""Cuts out of a video the packets that a decoder needs for chosen frames, as small files in memory.

Takes an open `Video` and the numbers of the wanted frames; returns pieces: Matroska files that begin at a keyframe and
end at a wanted frame, with the places of the wanted frames in them. Packets are copied, not encoded again. So a decoder
that cannot seek (DALI's counts frames from the start of its input) decodes what is needed and no more, and a frame near
the end costs what one near the start costs. Times inside a piece are made up: frames lie at even steps in the order in
which they are shown. Whatever the file was, a piece is a plain video without edit lists, gaps or fractions.

The samples of the pieces are those of the file, but if the codec has a label for it, the label says BT.601 and full
range: `colours` says why. Cost: 10 µs a packet, and the memory of the packets once more.
"""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from jaxtyping import UInt8

from deltactl.errors import SourceError
from deltactl.ingest.video.colours import BT_601, Colours
from deltactl.ingest.video.decode_av import Run, join_runs
from deltactl.ingest.video.timestamps import Video, source_errors

LABELS = {
    "h264": "h264_metadata=matrix_coefficients=6:video_full_range_flag=1",
    "hevc": "hevc_metadata=matrix_coefficients=6:video_full_range_flag=1",
    "vp9": "vp9_metadata=color_space=bt601:color_range=pc",
}
"""FFmpeg's bit stream filter that changes the label of a codec's colours."""
LABEL = Colours(BT_601, full=True)
"""What the changed label says."""
JOIN_PACKETS = 8
"""What another piece costs a decoder, in packets; shorter gaps are decoded through."""
MOST_REORDERED = 7
"""Frames that a decoder of pieces holds back to bring them into order."""
STEP = 40
"""Milliseconds from frame to frame inside a piece."""


@dataclass(frozen=True)
class Piece:
    """A part of a video that can be decoded by itself."""

    data: UInt8[np.ndarray, " bytes"]
    """A Matroska file."""
    numbers: tuple[int, ...]
    """The wanted frames in it, by their numbers in the video."""
    positions: tuple[int, ...]
    """Their numbers in the piece, counted from 0 in the order in which frames are shown."""


def cut_pieces(video: Video, wanted: Sequence[int], *, most_frames: int) -> list[Piece]:
    """Return the pieces that hold the wanted frames (distinct numbers), at most `most_frames` in each.

    Raises:
        SourceError: the video cannot be cut: its frames are not known by their packets, packets change the decoder's
            parameters on the way, or frames lie too far from their place.
    """
    if video.counted or video.changing:
        raise SourceError("its packets cannot be cut into pieces that can be decoded by themselves")
    with source_errors():
        packets = list(video.packets())
        spans = _spans(video, packets, wanted)
        pieces = []
        for run in join_runs(list(spans.values()), JOIN_PACKETS):
            inside = sorted((span.last, number) for number, span in spans.items() if run.first <= span.last <= run.last)
            for start in range(0, len(inside), most_frames):
                numbers = [number for _, number in inside[start : start + most_frames]]
                first = min(spans[number].first for number in numbers)
                pieces.append(_piece(video, packets[first : spans[numbers[-1]].last + 1], numbers))
        return pieces


def _spans(video: Video, packets: list[Any], wanted: Sequence[int]) -> dict[int, Run]:
    """Return for each wanted frame the packets from where a decoder can begin to its own."""
    parser = video.parser()
    if parser is not None and not parser.by_lengths:
        raise SourceError("its decoder's configuration is not one of MP4")

    def is_entry(packet: Any) -> bool:
        # Containers mark as keyframes also pictures of H.264 from which a picture becomes whole only after a while.
        return bool(packet.is_keyframe) if parser is None else parser.facts(bytes(packet)).entry

    entries = [number for number, packet in enumerate(packets) if is_entry(packet)]
    spans = {}
    for number in wanted:
        if int(video.packet_of[number]) in video.leading:
            raise SourceError(f"frame {number} is shown before the keyframe at which a decoder begins")
        position = bisect.bisect_right(entries, int(video.start_of[number])) - 1
        if position < 0:
            raise SourceError(f"frame {number} has no keyframe before it at which a decoder can begin")
        spans[number] = Run(entries[position], int(video.packet_of[number]))
    return spans


def _piece(video: Video, packets: list[Any], numbers: list[int]) -> Piece:
    """Return the packets as a file of their own. The first is a keyframe, the last holds one of the frames."""
    # Frames shown before the keyframe that precedes them lack what they refer to, and nothing refers to them.
    packets = [packet for packet in packets if packet.pts >= packets[0].pts]
    shown = sorted(packet.pts for packet in packets)
    if len(set(shown)) < len(shown):
        raise SourceError("two of its frames have the same time")
    position_of = {time: position for position, time in enumerate(shown)}
    positions = [position_of[packet.pts] for packet in packets]
    delay = max(number - position for number, position in enumerate(positions))
    if delay > MOST_REORDERED:
        raise SourceError(f"its frames come up to {delay} places late, more than the {MOST_REORDERED} that are sure")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream_from_template(video.stream)
        label = BitStreamFilterContext(LABELS[video.codec], video.stream, stream) if video.codec in LABELS else None
        stream.codec_context.codec_tag = "\0\0\0\0"  # the filter copies MP4's, which Matroska does not take
        for number, (packet, position) in enumerate(zip(packets, positions, strict=True)):
            copy = av.Packet(bytes(packet))
            copy.time_base = Fraction(1, 1000)
            copy.pts, copy.dts = STEP * (position + delay), STEP * number
            copy.is_keyframe = packet.is_keyframe or number == 0
            _mux(file, stream, [copy] if label is None else label.filter(copy))
        if label is not None:
            _mux(file, stream, label.filter(None))
    wanted = tuple(sorted(numbers))
    return Piece(
        np.frombuffer(buffer.getbuffer(), np.uint8),
        wanted,
        tuple(position_of[int(video.pts[number])] for number in wanted),
    )


def _mux(file: Any, stream: Any, packets: list[Any]) -> None:
    for packet in packets:
        packet.stream = stream
        file.mux(packet)
