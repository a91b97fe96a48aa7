"""When each frame of a video is shown, and which packets it takes to decode it, found by demuxing alone.

In comes a video file; out come the times of its frames in seconds, in display order, as its container tells them, and
for each frame the numbers of its own packet and of the keyframe packet to start from. Demuxing reads the file once
and decodes nothing (0.3 ms per 100 kB; packets of files up to 64 MB stay in memory for the decoder). Variable frame
rates, B-frames, edit lists and start offsets come out right because packets carry presentation times.

Some containers carry no presentation times (raw streams) or wrong ones (AVI, MPEG-PS): there, and where a decoder does
not show a frame that the container announced, `by_decoding` decodes the file once to see which frames there are.

Only known containers are opened, from local files: a playlist or concat script named `.mp4` would open other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from jaxtyping import Float, Int

from deltactl.errors import SourceError
from deltactl.reading import UnreadableError, check_regular, reason_of

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,ivf,h264,hevc"
TIMED_CONTAINERS = frozenset({"mov", "matroska", "mpegts", "flv", "asf", "ivf"})
"""Containers (first of FFmpeg's names) in which a packet's presentation time is that of its decoded frame."""
KEPT_BYTES = 64_000_000
"""Packets of larger files are read again for decoding instead of being kept in memory."""
MAX_PIXELS = 8192 * 8192
FALLBACK_RATE = 25.0


class Video:
    """An open video file: the times of its frames, and its packets. A context manager.

    `SourceError` where it cannot be opened, holds no video, or no frames.
    """

    times: Float[np.ndarray, " frames"]
    """Seconds, sorted, one for each frame that decoding shows."""
    packet_of: Int[np.ndarray, " frames"]
    """Number, in decoding order, of the packet of each frame; empty where frames are `counted`."""
    start_of: Int[np.ndarray, " frames"]
    """Number of the keyframe packet from which each frame can be decoded; empty where frames are `counted`."""
    first_packet: int = 0
    """Number of the first packet that can be decoded."""
    undecodable: int = 0
    """Number of packets that the container would show, but that lack the keyframe they build on."""
    pts: Int[np.ndarray, " frames"]
    """Presentation time of each frame in units of the stream's time base; empty where frames are `counted`."""
    hidden: bool = False
    """Whether there are packets that are decoded and not shown: outside an edit list, or before time 0."""
    changing: bool = False
    """Whether packets change the decoder's parameters on the way."""

    def __init__(self, path: Path, *, by_decoding: bool = False, kept_bytes: int = KEPT_BYTES) -> None:
        self.path = path
        self._kept: list[Any] = []
        with source_errors():
            _check_file(path)
            self._container = self._open()
            try:
                self._stream = _video_stream(self._container)
                self.container = str(self._container.format.name).split(",")[0]
                context = self._stream.codec_context
                self.codec = str(context.codec.canonical_name)
                self.pixel_format = str(context.pix_fmt)
                self.height, self.width = int(context.height), int(context.width)
                if self.height * self.width > MAX_PIXELS:
                    raise SourceError(f"its frames have {self.height} × {self.width} pixels, too many to read")
                self.counted = by_decoding or not self._index_packets(kept_bytes)
                if self.counted:
                    self._index_frames()
            except BaseException:
                self._container.close()
                raise

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the video stream in decoding order."""
        if self._kept:
            yield from self._kept
        else:
            self.rewind()
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)

    @property
    def stream(self) -> Any:
        """The video stream (PyAV's `VideoStream`), to copy packets from."""
        return self._stream

    @property
    def decoder(self) -> Any:
        """The codec context that decodes this file's packets, one thread."""
        return self._stream.codec_context

    def restart(self) -> None:
        """Make the decoder forget what it was given, so that it can begin at the first packet again."""
        if self._kept:
            self.decoder.flush_buffers()
        else:
            self.rewind()

    def rewind(self) -> None:
        """Open the file again, for a fresh decoder at its first packet; seeking is not exact in every container."""
        self._container.close()
        self._container = self._open()
        self._stream = _video_stream(self._container)

    def close(self) -> None:
        """Close the file."""
        self._kept = []
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        container = av.open(
            str(self.path),
            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
        for stream in container.streams.video:
            stream.codec_context.thread_count = 1  # one process a core decodes more than one process with threads
            if stream.codec_context.name == "mjpeg":
                # An error rather than a guess. (Others mark damaged frames; H.264's decoder would refuse open groups.)
                stream.codec_context.options = {"err_detect": "explode"}
        return container

    def _index_packets(self, kept_bytes: int) -> bool:
        """Fill the index from the packets' times; False where they cannot be trusted."""
        if self.container not in TIMED_CONTAINERS and not (self.container == "avi" and self.codec == "mjpeg"):
            return False
        pts, shown, key = [], [], []
        size = 0
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue
            if packet.pts is None:
                return False
            pts.append(packet.pts)
            shown.append(not packet.is_discard)
            self.hidden = self.hidden or packet.is_discard or packet.pts < 0
            key.append(packet.is_keyframe)
            # A packet that changes the decoder's parameters must not be jumped over.
            self.changing = self.changing or packet.has_sidedata("new_extradata")
            size += packet.size
            if size <= kept_bytes:
                self._kept.append(packet)
        if size > kept_bytes:
            self._kept = []
        if not pts:
            raise SourceError("holds no video frames")
        all_pts, keys = np.array(pts, np.int64), np.flatnonzero(key)
        if len(keys):
            # What a recording holds before its first keyframe, or shows before it, cannot be decoded.
            numbers = np.arange(len(all_pts))
            announced = sum(shown)
            shown = np.array(shown) & (numbers >= keys[0]) & (all_pts >= all_pts[keys[0]])
            self.undecodable = announced - int(shown.sum())
        packet_of = np.flatnonzero(shown)
        packet_of = packet_of[np.argsort(all_pts[packet_of], kind="stable")]
        self.pts = all_pts[packet_of]
        if len(self.pts) == 0:
            raise SourceError("holds no video frames")
        if (np.diff(self.pts) == 0).any():
            return False
        self.packet_of = packet_of
        keys = keys[:1] if self.changing else keys
        self.first_packet = int(keys[0]) if len(keys) else 0
        self.start_of = _start_packets(all_pts, keys, self.pts, packet_of)
        self.times = self.pts * float(self._stream.time_base)
        return True

    def _index_frames(self) -> None:
        """Fill the index by decoding every frame."""
        self._kept = []
        empty = np.zeros(0, np.int64)
        self.pts = self.packet_of = self.start_of = empty
        self.rewind()
        rate = float(self._stream.average_rate or self._stream.guessed_rate or FALLBACK_RATE)
        pts = [frame.pts for frame in self._container.decode(self._stream)]
        if not pts:
            raise SourceError("holds no video frames")
        if any(each is None for each in pts):
            self.times = np.arange(len(pts)) / rate
        else:
            self.times = np.sort(np.array(pts, np.int64)) * float(self._stream.time_base)


@contextlib.contextmanager
def source_errors() -> Iterator[None]:
    """Turn whatever a decoder throws at a damaged file into a `SourceError`; FFmpeg's errors have many types."""
    try:
        yield
    except SourceError:
        raise
    except MemoryError as error:
        raise SourceError("memory ran out while it was read; give the machine more, or use fewer --workers") from error
    except FileNotFoundError as error:
        raise SourceError("does not exist (a dangling link?)") from error
    except PermissionError as error:
        raise SourceError("no permission to read it") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(f"cannot be read as video: {reason}") from error


def _check_file(path: Path) -> None:
    """Refuse what would hang when read, such as a pipe, or holds nothing."""
    try:
        size = check_regular(path)
    except (UnreadableError, IsADirectoryError) as error:
        raise SourceError(reason_of(error)) from error
    if size == 0:
        raise SourceError("is empty")


def _video_stream(container: Any) -> Any:
    """Return the first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if stream.codec_context is None:
            raise SourceError("its codec is not known")
        if not stream.disposition & type(stream.disposition).attached_pic:
            return stream
    raise SourceError("holds no video stream")


def _start_packets(
    all_pts: Int[np.ndarray, " packets"],
    keys: Int[np.ndarray, " keys"],
    pts: Int[np.ndarray, " frames"],
    packet_of: Int[np.ndarray, " frames"],
) -> Int[np.ndarray, " frames"]:
    """Return for each frame the last keyframe packet before it in decoding order that is not shown after it.

    Frames shown before the keyframe that precedes them (open groups of pictures) need the keyframe before that one.
    """
    starts = np.zeros(len(pts), np.int64)
    if len(keys) == 0:
        return starts
    place = np.searchsorted(keys, packet_of, side="right") - 1
    while True:
        late = (place >= 0) & (all_pts[keys[np.maximum(place, 0)]] > pts)
        if not late.any():
            break
        place = place - late
    return np.where(place >= 0, keys[np.maximum(place, 0)], 0)
