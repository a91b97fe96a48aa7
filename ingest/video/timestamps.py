"""When each frame of a video is shown, and which packets it takes to decode it, found by demuxing alone.

Takes a video file; returns the times of its frames in seconds, in display order, as its container tells them, and for
each frame the numbers of its own packet and of the keyframe packet to start from. Demuxing reads the file once
and decodes nothing (13 µs a packet; packets of files up to 64 MB stay in memory for the decoder). Variable frame
rates, B-frames, edit lists and start offsets come out right because packets carry presentation times.

Some containers carry no presentation times (raw streams) or wrong ones (AVI, MPEG-PS): there, and where a decoder does
not show a frame that the container announced, `by_decoding` decodes the file once to see which frames there are.

Where decoding can begin is told by the packets themselves if their codec allows it (`nal`), else by the container's
marks; frames before the first mark are tried. Packets that hold no picture are no frames. `streams` chooses the stream
if a file has several.

Of a part of a file (`Window`) only the packets that it needs are read: from the keyframe before it, which the container
finds, to its end.

Only known containers are opened, from local files: a playlist or concat script named `.mp4` would open other files.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, Int, Shaped

from deltactl.errors import SourceError
from deltactl.ingest.shards.images import MAX_PIXELS
from deltactl.ingest.video.nal import CODECS, UNKNOWN, PacketFacts, PacketParser, is_intra_mpeg4
from deltactl.ingest.video.streams import best_video_stream
from deltactl.reading import UnreadableError, check_regular, reason_of

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,ivf,h264,hevc,vvc,obu,av1,mjpeg,"
    "mxf,gif,dv,nut,gxf,rm,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the containers that are opened: none of them names other files to read."""
TIMED_CONTAINERS = frozenset({"mov", "matroska", "mpegts", "flv", "asf", "ivf"})
"""Containers (first of FFmpeg's names) in which a packet's presentation time is that of its decoded frame."""
KEPT_BYTES = 64_000_000
"""Packets of larger files are read again for decoding instead of being kept in memory."""
FALLBACK_RATE = 25.0
"""Frames a second of a raw stream that does not say."""
SEEK_BACK_SECONDS = 1.0
"""How far before a moment its keyframe is looked for where seeking does not find it; twice as far each time."""
MOST_DOUBTS = 32
"""Lost packets of a file whose surroundings are looked at; that takes another reading of it."""


@dataclass(frozen=True)
class Window:
    """A part of a video: the frames that are shown from `start` on and before `end`, seconds of the container's clock.

    Frames are numbered from the first of them. What lies before the keyframe that they build on, and what comes after
    them, is not read.
    """

    start: float
    end: float


class Video:
    """An open video file, or a part of one: the times of its frames, and its packets. A context manager.

    Raises:
        SourceError: it cannot be opened, or holds no video or no frames.
    """

    times: Float[np.ndarray, " frames"]
    """Seconds, sorted, one for each frame that decoding shows."""
    packet_of: Int[np.ndarray, " frames"]
    """Number, in decoding order, of the packet of each frame; empty if frames are `counted`."""
    start_of: Int[np.ndarray, " frames"]
    """Number of the keyframe packet from which each frame can be decoded; empty if frames are `counted`."""
    first_packet: int = 0
    """Number of the first packet that can be decoded."""
    leading: frozenset[int] = frozenset()
    """Numbers of packets shown before the keyframe packet that precedes them, but decodable from it."""
    empty: frozenset[int] = frozenset()
    """Numbers of packets that hold no picture."""
    undecodable: int = 0
    """Number of packets that the container would show, but that lack the keyframe they build on."""
    pts: Int[np.ndarray, " frames"]
    """Presentation time of each frame in units of the stream's time base; empty if frames are `counted`."""
    hidden: bool = False
    """Whether there are packets that are decoded and not shown: outside an edit list, or before time 0."""
    changing: bool = False
    """Whether packets change the decoder's parameters on the way."""

    def __init__(
        self, path: Path, *, by_decoding: bool = False, kept_bytes: int = KEPT_BYTES, window: Window | None = None
    ) -> None:
        self.path = path
        self.window = window
        self._kept: list[Any] = []
        self._doubts = 0
        with source_errors():
            _check_file(path)
            self._container = self._open_container()
            try:
                self._stream_number = self._choose_stream()
                self._stream = self._prepared(self._stream_number)
                self.container = str(self._container.format.name).split(",")[0]
                context = self._stream.codec_context
                self.codec = str(context.codec.canonical_name)
                self.pixel_format = str(context.pix_fmt)
                self.height, self.width = int(context.height), int(context.width)
                if self.height * self.width > MAX_PIXELS:
                    raise SourceError(f"its frames have {self.height} × {self.width} pixels, too many to read")
                self.counted = by_decoding or not self._index_packets(kept_bytes)
                if self.counted and window is not None:
                    raise SourceError(f"its packets carry no times by which a part of a {self.container} file is found")
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
            yield from self._demux(self._container)

    @property
    def stream(self) -> Any:
        """The video stream (PyAV's `VideoStream`), to copy packets from."""
        return self._stream

    @property
    def decoder(self) -> Any:
        """The codec context that decodes this file's packets, one thread."""
        return self._stream.codec_context

    def restart(self) -> None:
        """Make the decoder forget its input; it can then begin at the first packet again."""
        if self._kept:
            self.decoder.flush_buffers()
        else:
            self.rewind()

    def rewind(self) -> None:
        """Open the file again, for a fresh decoder at its first packet; seeking is not exact in every container."""
        self._container.close()
        self._container = self._open_container()
        self._stream = self._prepared(self._stream_number)

    def seconds_of(self, pts: int | None) -> str:
        """Return a moment in words, such as `at 2.04 s`, by its number on the stream's clock."""
        return "at a moment that is not told" if pts is None else f"at {pts * float(self._stream.time_base):.6g} s"

    def leaves_others_whole(self, number: int) -> bool:
        """Return whether a packet that cannot be decoded, or holds no picture, is missed by no other frame.

        HEVC's decoder itself holds back the frames that lack one. Of a file with many such packets all count as missed.
        """
        if self.codec in ("hevc", "mjpeg"):
            return True
        self._doubts += 1
        if self._doubts > MOST_DOUBTS:
            return False
        before: Any = None
        around = itertools.islice(self.packets() if self._kept else self._packets_again(), number + 2)
        after: Any = None
        for position, packet in enumerate(around):
            if position == number and packet.is_disposable:
                return True
            if position < number and position not in self.empty:
                before = packet
            elif position > number:
                after = packet
        parser = self.parser()
        if parser is None:
            return after is None or bool(after.is_keyframe)
        return parser.leaves_others_whole(*(None if each is None else bytes(each) for each in (before, after)))

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

    def _open_container(self) -> Any:
        return av.open(
            str(self.path),
            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )

    def _choose_stream(self) -> int:
        """Return the number of the stream to read."""
        number = best_video_stream(self._container)
        if len(self._container.streams.video) > 1:  # choosing may have read from it
            self._container.close()
            self._container = self._open_container()
        return number

    def _prepared(self, number: int) -> Any:
        """Return a stream of the container, its decoder set up. No other stream is touched."""
        stream = self._container.streams[number]
        stream.codec_context.thread_count = 1  # one process a core decodes more than one process with threads
        if stream.codec_context.name == "mjpeg":
            # An error rather than a guess. (Others mark damaged frames; H.264's decoder would refuse open groups.)
            stream.codec_context.options = {"err_detect": "explode"}
        return stream

    def _packets_again(self) -> Iterator[Any]:
        """Yield the packets from another reading of the file, beside one that is under way."""
        with self._open_container() as container:
            yield from self._demux(container)

    def _demux(self, container: Any) -> Iterator[Any]:
        """Yield the packets of the stream, from a container that was just opened; of a window those that it needs."""
        stream = container.streams[self._stream_number]
        if self.window is None:
            yield from (packet for packet in container.demux(stream) if packet.size)
            return
        base = float(stream.time_base)
        for packet in _packets_from(container, stream, math.floor(self.window.start / base)):
            # No packet is shown before its decoding time, and these rise: nothing that follows is of the window.
            if packet.dts is not None and packet.dts * base >= self.window.end:
                return
            yield packet

    def parser(self) -> PacketParser | None:
        """Return what reads the packets' units; None if the codec has none."""
        if self.codec not in CODECS:
            return None
        return PacketParser(self.codec, bytes(self._stream.codec_context.extradata or b""))

    def _index_packets(self, kept_bytes: int) -> bool:
        """Fill the index from the packets' times; False if they cannot be trusted."""
        if self.container not in TIMED_CONTAINERS and not (self.container == "avi" and self.codec == "mjpeg"):
            return False
        pts, shown, marked, facts = [], [], [], []
        size = 0
        parser = self.parser()
        for packet in self._demux(self._container):
            if packet.pts is None:
                return False
            pts.append(packet.pts)
            shown.append(not packet.is_discard)
            self.hidden = self.hidden or packet.is_discard or packet.pts < 0
            marked.append(packet.is_keyframe and (self.codec != "mpeg4" or is_intra_mpeg4(bytes(packet))))
            facts.append(UNKNOWN if parser is None else parser.facts(bytes(packet)))
            # A packet that changes the decoder's parameters must not be jumped over.
            self.changing = self.changing or packet.has_sidedata("new_extradata")
            size += packet.size
            if size <= kept_bytes:
                self._kept.append(packet)
        if size > kept_bytes:
            self._kept = []
        if not pts:
            raise SourceError("holds no video frames")
        all_pts, pictures = np.array(pts, np.int64), np.array([each.picture for each in facts])
        self.empty = frozenset(np.flatnonzero(~pictures).tolist())
        announced = np.array(shown) & pictures
        keys = _keyframes(marked, facts)
        decodable = announced
        if len(keys):
            keys, decodable = self._check_start(all_pts, announced, keys, facts)
            self.undecodable = int(announced.sum() - decodable.sum())
        packet_of = np.flatnonzero(decodable)
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
        if self.window is not None:
            self._keep(slice(*np.searchsorted(self.times, (self.window.start, self.window.end))))
        return True

    def _keep(self, part: slice) -> None:
        """Forget the frames outside a part."""
        self.pts, self.times = self.pts[part], self.times[part]
        self.packet_of, self.start_of = self.packet_of[part], self.start_of[part]

    def _check_start(
        self,
        all_pts: Int[np.ndarray, " packets"],
        announced: Shaped[np.ndarray, " packets"],
        keys: Int[np.ndarray, " keys"],
        facts: list[PacketFacts],
    ) -> tuple[Int[np.ndarray, " entries"], Shaped[np.ndarray, " packets"]]:
        """Return the keyframe packets, and which of the frames announced can be decoded.

        What a recording holds before its first keyframe, or shows before it, mostly cannot be.
        """
        numbers, first = np.arange(len(all_pts)), int(keys[0])
        early = (numbers < first) | (all_pts < all_pts[first])
        if self.codec in CODECS:
            leads = np.array([each.leading for each in facts]) & early & (numbers > first)
            leads &= numbers < (keys[1] if len(keys) > 1 else len(numbers))
            self.leading = frozenset(np.flatnonzero(leads).tolist())
            return keys, announced & (~early | leads)
        if not (early & announced).any():
            return keys, announced
        seen = self._try_start(early)
        found = early & announced & np.isin(all_pts, list(seen))
        begin = int(np.flatnonzero(found)[0]) if found.any() else first
        if begin < first and not seen[int(all_pts[begin])]:
            return keys, announced & ~early
        begin = min(begin, first)
        leads = (numbers > begin) & (all_pts < all_pts[begin]) & (found | ~announced)
        self.leading = frozenset(np.flatnonzero(leads).tolist())
        return np.array([begin, *keys] if begin < first else keys), announced & (~early | found)

    def _try_start(self, early: Shaped[np.ndarray, " packets"]) -> dict[int, bool]:
        """Decode up to the last packet that may not be decodable; return the presentation times of whole frames.

        And for each whether it is a keyframe, by what its decoder says.
        """
        seen: dict[int, bool] = {}
        self.restart()
        last = int(np.flatnonzero(early)[-1])
        for packet in [*itertools.islice(self.packets(), last + 1), None]:
            with contextlib.suppress(FFmpegError):
                frames = self.decoder.decode(packet)
                seen |= {int(each.pts): bool(each.key_frame) for each in frames if not each.is_corrupt}
        self.restart()
        return seen

    def _index_frames(self) -> None:
        """Fill the index by decoding every frame; what cannot be decoded is none."""
        self._kept = []
        empty = np.zeros(0, np.int64)
        self.pts = self.packet_of = self.start_of = empty
        self.leading = frozenset()
        self.rewind()
        parser = self.parser()
        rate = float(self._stream.average_rate or self._stream.guessed_rate or FALLBACK_RATE)
        pts: list[int | None] = []
        without_picture: list[int] = []
        reason = ""
        for number, packet in enumerate(itertools.chain(self.packets(), [None])):
            if packet is not None and parser is not None and not parser.facts(bytes(packet)).picture:
                without_picture.append(number)
            try:
                pts += [frame.pts for frame in self.decoder.decode(packet)]
            except FFmpegError as error:
                reason = f": {error.strerror}"
        self.empty = frozenset(without_picture)
        if not pts:
            raise SourceError(f"holds no video frames that can be decoded{reason}")
        known = [each for each in pts if each is not None]
        if len(known) < len(pts):
            self.times = np.arange(len(pts)) / rate
        else:
            self.times = np.sort(np.array(known, np.int64)) * float(self._stream.time_base)


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


def _packets_from(container: Any, stream: Any, pts: int) -> Iterator[Any]:
    """Yield the packets of a stream from the keyframe on that a frame shown at `pts` is built on, or an earlier one."""
    begin, back = int(stream.start_time or 0), 0
    while True:
        target = max(pts - back, begin)
        container.seek(target, stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        first = next(packets, None)
        if target == begin or (first is not None and first.is_keyframe and first.pts is not None and first.pts <= pts):
            break
        # Containers look for keyframes by their decoding times, or land behind the target.
        back = max(2 * back, round(SEEK_BACK_SECONDS / float(stream.time_base)))
    if first is not None:
        yield first
    yield from packets


def _check_file(path: Path) -> None:
    """Refuse what would hang when read, such as a pipe, or holds nothing."""
    try:
        size = check_regular(path)
    except (UnreadableError, IsADirectoryError) as error:
        raise SourceError(reason_of(error)) from error
    if size == 0:
        raise SourceError("is empty")


def _keyframes(marked: list[bool], facts: list[PacketFacts]) -> Int[np.ndarray, " keys"]:
    """Return the numbers of the packets from which on frames can be decoded.

    Those that say so themselves; of those that the container marks, the ones that do not deny it. Where the packets
    cannot be read, all that are marked.
    """
    if not any(each.resumes for each in facts):
        return np.flatnonzero(marked)
    return np.array([n for n, each in enumerate(facts) if each.entry or (marked[n] and each.resumes)], np.int64)


def _start_packets(
    all_pts: Int[np.ndarray, " packets"],
    keys: Int[np.ndarray, " keys"],
    pts: Int[np.ndarray, " frames"],
    packet_of: Int[np.ndarray, " frames"],
) -> Int[np.ndarray, " frames"]:
    """Return for each frame the last keyframe packet before it in decoding order that is not shown after it.

    Frames shown before the keyframe that precedes them (open groups of pictures) need the keyframe before that one.
    """
    if len(keys) == 0:
        return np.zeros(len(pts), np.int64)
    position = np.searchsorted(keys, packet_of, side="right") - 1
    while True:
        late = (position >= 0) & (all_pts[keys[np.maximum(position, 0)]] > pts)
        if not late.any():
            break
        position = position - late
    return np.asarray(keys[np.maximum(position, 0)])
