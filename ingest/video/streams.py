"""Which video stream of a file is meant, where it has several: the one place that chooses.

Takes an open container (PyAV's), returns the number of a stream. The order is that of FFmpeg's `av_find_best_stream`,
with pixels before the bit rate, which many containers do not tell: streams of which this FFmpeg knows the codec; those
that move (cover pictures, thumbnails and stills are not taken for the video); those that are not made for the few (the
visually impaired, say); those marked as default; the most pixels; the highest bit rate; the first. Nothing else is
asked of a stream, so one that cannot be decoded does no harm. A file with one video stream is not read for it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from av.error import FFmpegError
from av.stream import Disposition

from deltactl.errors import SourceError

PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
"""What marks a stream of pictures beside the video."""
LESSER = (
    Disposition.still_image
    | Disposition.dependent
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.non_diegetic
)
"""What marks a stream that is not made to be shown by itself to everybody."""
PEEKED_PACKETS = 1000
"""Packets that are looked at to find out which streams move."""


def best_video_stream(container: Any) -> int:
    """Return the number of the video stream to decode, among all streams.

    If there are several, the container may have been read from, and must be opened anew.

    Raises:
        SourceError: there is no video stream, or none of a known codec.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & PICTURES]
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise SourceError("its codec is not known" if streams else "holds no video stream")
    if len(known) == 1:
        return int(known[0].index)
    counts = _count_packets(container, known)

    def rank(stream: Any) -> tuple[bool, bool, bool, int, int, int]:
        context = stream.codec_context
        return (
            counts[stream.index] > 1,
            not stream.disposition & LESSER,
            bool(stream.disposition & Disposition.default),
            int(context.width) * int(context.height),
            int(context.bit_rate or 0),
            -int(stream.index),
        )

    return int(max(known, key=rank).index)


def _count_packets(container: Any, streams: list[Any]) -> Counter[int]:
    """Return how many packets each stream has, as the container tells or as its beginning shows."""
    counts = Counter({int(stream.index): int(stream.frames) for stream in streams})
    unknown = [stream for stream in streams if not counts[stream.index]]
    if not unknown:
        return counts
    try:
        for number, packet in enumerate(container.demux(unknown)):
            counts[packet.stream_index] += bool(packet.size)
            if number >= PEEKED_PACKETS or all(counts[stream.index] > 1 for stream in unknown):
                break
    except FFmpegError:  # a damaged file; what was seen counts, and the stream that is chosen will tell
        return counts
    return counts
