"""Decodes chosen frames of videos with NVIDIA DALI: on a GPU (NVDEC), or the same graph on the CPU.

Takes open `Video`s and the numbers of the wanted frames, yields uint8 RGB frames, turned as the files' metadata say.
DALI decodes every file from its first frame on and knows no frame times. So it gets pieces (`pieces`): the packets from
a keyframe to a wanted frame, with the numbers of the frames in there. The pipeline is built once and reused; it takes
the pieces of several videos in one run, and decodes them side by side.

What DALI might decode wrongly is refused, and the caller decodes it with PyAV: other codecs and containers, what NVDEC
would count or show differently (fields, hidden packets, hidden pictures), and colours that are clipped beyond repair
(`colours`). Besides, both decode the first frame of every video, and a video whose two first frames differ is refused.
Damaged files can crash the process, so this always runs in a child process (see `videos`).

DALI keeps a decoder for nearly every piece, up to 100 of them, so a process on a GPU must be replaced after a while
(`DaliDecoder.worn`).

On the CPU DALI decodes VP8, VP9 and MJPEG only. Importing it takes a second and 250 MB.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from deltactl.errors import MissingExtraError, SourceError
from deltactl.ingest.video.colours import BT_601, Colours, Recolouring, colours_of
from deltactl.ingest.video.decode_av import FirstFrame, PyAVDecoder
from deltactl.ingest.video.h264 import may_have_fields
from deltactl.ingest.video.orientation import Orientation, orientation_of
from deltactl.ingest.video.pieces import LABEL, LABELS, Piece, cut_pieces
from deltactl.ingest.video.probe import PROBE_FRAMES, write_probe
from deltactl.ingest.video.timestamps import Video

NVDEC = "libnvcuvid.so.1"
"""The library of NVIDIA's driver that decodes videos."""
CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
GPU_CODECS = frozenset({"h264", "hevc"})
"""Codecs without hidden pictures: of VP9 and AV1 DALI on a GPU may show a picture that is for reference only."""
CONTAINERS = frozenset({"mov", "matroska"})
"""Containers in which DALI's frame numbers are known to be those of the demux."""
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""8-bit 4:2:0; PyAV converts all others."""
MAX_FILE_BYTES = 512_000_000
"""The packets of a file are held in memory."""
CALL_BYTES = 256_000_000
"""Decoded frames asked for in one call of the pipeline."""
CALL_PIECES = 8
"""Pieces decoded in one call of the pipeline."""
GPU_THREADS = 4
"""Pieces that are decoded at once on a GPU: while one waits for its frame another can keep NVDEC busy."""
FIRST_FRAME_LEVELS = 4.0
"""Most that the first frames of both decoders may differ, in the mean. Chroma at edges makes up to 2."""
DECODER_PICTURES = 20
"""Pictures that one of NVDEC's decoders holds."""
WORN_BYTES = 2_000_000_000
"""GPU memory in decoders that DALI keeps, after which a process should be replaced."""


@dataclass(frozen=True)
class DaliJob:
    """What DALI is to decode of one video."""

    pieces: tuple[Piece, ...]
    first: UInt8[np.ndarray, "h w 3"] | None
    """Frame 0 as PyAV decodes it."""
    wanted: frozenset[int]
    codec: str
    size: tuple[int, int]
    """Height and width of the frames as they are stored."""
    coded_size: tuple[int, int]
    colours: Recolouring
    orientation: Orientation

    @property
    def bytes(self) -> int:
        """Bytes of the pieces."""
        return sum(len(piece.data) for piece in self.pieces)


class DaliDecoder:
    """Decodes on a device, `gpu` or `cpu`, with one pipeline; raises SourceError for what DALI does not decode."""

    name = "dali"

    def __init__(self, device: Literal["gpu", "cpu"], device_id: int = 0) -> None:
        self.device = device
        self._device_id = device_id if device == "gpu" else None
        self._pyav = PyAVDecoder()
        self._pipeline: Any = None
        self._fault: str | None = None
        self._sound: set[str] = set()
        """Codecs of which something came out right."""
        self._faulty: dict[str, str] = {}
        """Codecs of which nothing does here, and why."""
        self._kept: set[tuple[str, tuple[int, int], tuple[int, int]]] = set()
        """Codec, shown size and coded size of NVDEC's decoders that DALI holds."""
        self._kept_bytes = 0
        self._frames: Any = None

    @property
    def worn(self) -> bool:
        """Whether this process holds so many of NVDEC's decoders that another should take its place."""
        return self._kept_bytes > WORN_BYTES

    def refusal(self, video: Video) -> str | None:
        """Return why DALI should not decode this video on this device, or None if nothing is known against it."""
        if self._fault is not None:
            return self._fault
        if video.codec in self._faulty:
            return self._faulty[video.codec]
        codecs = GPU_CODECS if self.device == "gpu" else CPU_CODECS
        if video.codec not in codecs:
            return f"DALI on a {self.device.upper()} does not decode {video.codec}"
        if video.container not in CONTAINERS or video.counted:
            return f"DALI's frame numbers are not sure in a {video.container} file"
        if video.pixel_format not in PIXEL_FORMATS:
            return f"DALI does not convert {video.pixel_format} frames"
        if video.undecodable:
            return "DALI's frame numbers are not sure in a video that begins without a keyframe"
        if video.empty:
            return "DALI's frame numbers are not sure in a video with packets that hold no picture"
        if self.device == "gpu" and video.hidden:
            return "DALI's frame numbers are not sure on a GPU in a video with packets that are not shown"
        if self.device == "gpu" and (video.height % 2 or video.width % 2):
            return f"a GPU decodes frames of even size only, not {video.height} × {video.width}"
        if video.window is None and video.path.stat().st_size > MAX_FILE_BYTES:
            return f"the file is larger than the {MAX_FILE_BYTES:,} bytes that DALI is given"
        return None

    def prepare(self, video: Video, wanted: Sequence[int]) -> DaliJob:
        """Return what is to be decoded for the wanted frames (distinct, sorted numbers); the video can then be closed.

        Raises:
            SourceError: DALI should not decode this video.
        """
        if reason := self.refusal(video):
            raise SourceError(reason)
        assert max(wanted) < len(video.times), "a frame beyond the demuxed packets"
        # What a video says of itself is in its decoded frames only; one that PyAV cannot decode ends here.
        first = self._pyav.first_frame(video)
        if self.device == "gpu" and (reason := self._refusal_on_gpu(video, first)):
            raise SourceError(reason)
        meant = colours_of(first.frame)
        taken = LABEL if video.codec in LABELS else Colours(BT_601, meant.full)
        most = max(1, CALL_BYTES // (video.height * video.width * 3))
        return DaliJob(
            tuple(cut_pieces(video, sorted({0, *wanted}), most_frames=most)),
            self._pyav.picture(first.frame),
            frozenset(wanted),
            video.codec,
            (video.height, video.width),
            first.coded_size,
            Recolouring(taken, meant),
            orientation_of(first.frame),
        )

    def run(self, jobs: Sequence[DaliJob]) -> Iterator[tuple[int, int, UInt8[np.ndarray, "h w 3"] | SourceError]]:
        """Yield each wanted frame of each job, in order: the job's place in `jobs`, the frame's number, and the frame.

        A job whose frames turn out wrong yields a SourceError in place of a frame, and nothing more.

        Raises:
            SourceError: DALI fails; which of the jobs is to blame is not known then.
        """
        failed: set[int] = set()
        for call in _calls(jobs):
            for (number, piece), frames in zip(call, self._decode(jobs, call), strict=True):
                for index, frame in zip(piece.numbers, frames, strict=True):
                    if number in failed:
                        break
                    try:
                        picture = self._picture(jobs[number], index, frame)
                    except SourceError as error:
                        failed.add(number)
                        yield number, index, error
                    else:
                        if index in jobs[number].wanted:
                            yield number, index, picture

    def blame(self, codec: str, reason: str) -> None:
        """Take note that DALI failed, for this reason, at a video that PyAV decodes.

        Where nothing of its codec has come out right so far, a small video of our own tells whether the file is to
        blame or the device (a card whose NVDEC lacks the codec, say); with the latter the codec is refused from then
        on.
        """
        if codec in self._sound or codec in self._faulty:
            return
        if self._decodes(codec):
            self._sound.add(codec)
        else:
            self._faulty[codec] = f"DALI decodes no {codec} rightly on this {self.device.upper()}: {reason}"

    def frames(self, video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Yield each wanted frame (distinct, sorted numbers) with its number.

        Raises:
            SourceError: DALI should not, or cannot, decode it.
        """
        for _, index, picture in self.run([self.prepare(video, wanted)]):
            if isinstance(picture, SourceError):
                raise picture
            yield index, picture

    def _decodes(self, codec: str) -> bool:
        """Whether a whole video of this codec comes out right."""
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"{codec}.mkv"
                write_probe(path, codec)
                with Video(path) as video:
                    return len(list(self.frames(video, range(PROBE_FRAMES)))) == PROBE_FRAMES
        except SourceError:
            return False

    def _refusal_on_gpu(self, video: Video, first: FirstFrame) -> str | None:
        if first.interlaced:
            return "DALI on a GPU gives wrong frames of interlaced video"
        if video.codec == "h264" and may_have_fields(bytes(video.decoder.extradata or b"")):
            return "DALI on a GPU may give wrong frames of video that may go on interlaced"
        # DALI keeps decoders by the size that they show, and looks for one by the size that is coded.
        own = video.codec, (video.height, video.width), first.coded_size
        for kept in self._kept - {own}:
            if kept[:2] == (video.codec, first.coded_size):
                return "DALI would decode it with a decoder that it keeps for frames of another size"
        return None

    def _picture(self, job: DaliJob, index: int, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        if frame.shape[:2] != job.size:
            raise SourceError(f"DALI gives frames of {frame.shape[0]} × {frame.shape[1]} pixels")
        picture = job.orientation.apply(job.colours.apply(frame))
        if index == 0 and job.first is not None:
            difference = float(np.abs(picture.astype(np.int16) - job.first).mean())
            if difference > FIRST_FRAME_LEVELS:
                raise SourceError(f"DALI's first frame is not PyAV's: they differ by {difference:.1f} levels")
            self._sound.add(job.codec)
        return picture

    def _decode(
        self, jobs: Sequence[DaliJob], call: list[tuple[int, Piece]]
    ) -> list[UInt8[np.ndarray, "frames height width 3"]]:
        faults = (self._fault, *(self._faulty.get(jobs[number].codec) for number, _ in call))
        if (fault := next(filter(None, faults), None)) is not None:
            raise SourceError(fault)
        if self._pipeline is None:
            self._pipeline = self._start()
        for number, _ in call:
            self._count_decoder(jobs[number])
        try:
            self._pipeline.feed_input("file", [piece.data for _, piece in call])
            self._pipeline.feed_input("frames", [np.array(piece.positions, np.int32) for _, piece in call])
            (output,) = self._pipeline.run()
            self._frames = output.as_cpu() if self.device == "gpu" else output  # what the arrays look into
            found = [np.asarray(self._frames[position]) for position in range(len(call))]
        except RuntimeError as error:
            self._pipeline = None
            raise SourceError(f"DALI cannot decode it: {first_reason(str(error))}") from error
        return found

    def _start(self) -> Any:
        """Return a pipeline; if there can be none, raise SourceError now and at every later call."""
        reason = f"the driver has no {NVDEC}" if self.device == "gpu" and not has_nvdec() else None
        try:
            if reason is None:
                return _build(self._device_id)
        except RuntimeError as error:
            reason = first_reason(str(error))
        self._fault = f"DALI does not start on this {self.device.upper()}: {reason}"
        raise SourceError(self._fault)

    def _count_decoder(self, job: DaliJob) -> None:
        if self.device != "gpu":
            return
        key = job.codec, job.size, job.coded_size
        if key not in self._kept or job.coded_size != job.size:
            height, width = job.coded_size
            self._kept_bytes += DECODER_PICTURES * height * width * 3 // 2
        self._kept.add(key)


def _calls(jobs: Sequence[DaliJob]) -> Iterator[list[tuple[int, Piece]]]:
    """Yield the pieces of the jobs, each with its job's place, in parts that one call of the pipeline takes."""
    call: list[tuple[int, Piece]] = []
    size = 0
    for number, job in enumerate(jobs):
        for piece in job.pieces:
            more = len(piece.numbers) * job.size[0] * job.size[1] * 3
            if call and (len(call) == CALL_PIECES or size + more > CALL_BYTES):
                yield call
                call, size = [], 0
            call.append((number, piece))
            size += more
    if call:
        yield call


def gpu_count() -> int:
    """Return the number of CUDA devices, without loading a CUDA library of our own: 0 if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def dali_is_installed() -> bool:
    """Whether DALI is there. It is not imported, which takes a second."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def has_nvdec() -> bool:
    """Whether the NVIDIA driver here brings the library that decodes videos; containers often leave it out."""
    try:
        ctypes.CDLL(NVDEC)
    except OSError:
        return False
    return True


def _build(device_id: int | None) -> Any:
    """Return the pipeline: pieces of videos and frame numbers in, frames out; up to `CALL_PIECES` at once."""
    try:
        # Its modules make their names as they load, which type checkers do not see.
        dali: Any = importlib.import_module("nvidia.dali")
    except ImportError as error:
        raise MissingExtraError("NVIDIA DALI", "gpu", "--decoder dali") from error

    pipeline = dali.Pipeline(
        batch_size=CALL_PIECES,
        num_threads=1 if device_id is None else GPU_THREADS,
        device_id=device_id,
        exec_pipelined=False,
        exec_async=False,
        prefetch_queue_depth=1,
    )
    with pipeline:
        frames = dali.fn.decoders.video(
            dali.fn.external_source(name="file", dtype=dali.types.UINT8, ndim=1),
            device="cpu" if device_id is None else "mixed",
            frames=dali.fn.external_source(name="frames", dtype=dali.types.INT32, ndim=1),
            pad_mode="none",
        )
        pipeline.set_outputs(frames)
    pipeline.build()
    return pipeline


def first_reason(text: str) -> str:
    """Return the sentence of DALI's message that says what is wrong; the rest is a traceback."""
    lines = [line.strip() for line in text.partition("encountered:")[2].splitlines() if line.strip()]
    return (lines[0] if lines else " ".join(text.split()))[:300]
