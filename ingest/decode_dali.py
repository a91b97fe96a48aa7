"""Decodes chosen frames of a video with NVIDIA DALI: on a GPU (NVDEC), or the same graph on the CPU.

In come an open `Video` and the numbers of the wanted frames; out come uint8 RGB frames, rotated as the file's metadata
say. One pipeline is built once and reused: the bytes of the file and the frame numbers are its two inputs. DALI knows
no frame times, so the numbers come from PyAV's demux, and never exceed what it saw: of a truncated file DALI returns
black frames. Damaged files can crash the process, so this runs in a child process, always (see `videos`).

DALI takes all colours for BT.601's; those of BT.709 (most videos in HD) and others are made right afterwards.

On the CPU DALI decodes VP8, VP9 and MJPEG only. Importing it takes a second and 250 MB.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from deltactl.errors import MissingExtraError, SourceError
from deltactl.ingest.decode_av import PyAVDecoder, rotate
from deltactl.ingest.timestamps import Video

CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
GPU_CODECS = CPU_CODECS | {"h264", "hevc", "av1", "mpeg4"}
CONTAINERS = frozenset({"mov", "matroska"})
"""Containers in which DALI's frame numbers are known to be those of the demux."""
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""8-bit 4:2:0; PyAV converts all others."""
BT_601 = (0.299, 0.114)
"""Shares of red and blue in luma; what DALI takes all videos for."""
LUMA = {2: BT_601, 5: BT_601, 6: BT_601, 1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Those shares by the number of the colour space in ITU-T H.273; 2 stands for videos that do not say."""
MAX_FILE_BYTES = 512_000_000
"""DALI takes the whole file in memory."""
CALL_BYTES = 256_000_000
"""Decoded frames asked for in one call of the pipeline."""


class DaliDecoder:
    """Decodes on a device, `gpu` or `cpu`, with one pipeline. SourceError for what DALI does not decode."""

    name = "dali"

    def __init__(self, device: Literal["gpu", "cpu"], device_id: int = 0) -> None:
        self.device = device
        self._device_id = device_id if device == "gpu" else None
        self._pipeline: Any = None
        self._fault: str | None = None

    def refusal(self, video: Video) -> str | None:
        """Return why DALI should not decode this video on this device, or None where it can."""
        if self._fault is not None:
            return self._fault
        codecs = GPU_CODECS if self.device == "gpu" else CPU_CODECS
        if video.codec not in codecs:
            return f"DALI on a {self.device.upper()} does not decode {video.codec}"
        if video.container not in CONTAINERS or video.counted:
            return f"DALI's frame numbers are not sure in a {video.container} file"
        if video.pixel_format not in PIXEL_FORMATS:
            return f"DALI does not convert {video.pixel_format} frames"
        if video.undecodable:
            return "DALI's frame numbers are not sure in a video that begins without a keyframe"
        if self.device == "gpu" and (video.height % 2 or video.width % 2):
            return f"a GPU decodes frames of even size only, not {video.height} × {video.width}"
        if video.path.stat().st_size > MAX_FILE_BYTES:
            return f"the file is larger than the {MAX_FILE_BYTES:,} bytes that DALI is given"
        return None

    def frames(self, video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Yield each wanted frame (distinct, sorted numbers) with its number; SourceError where DALI cannot."""
        if reason := self.refusal(video):
            raise SourceError(reason)
        assert max(wanted) < len(video.times), "a frame beyond the demuxed packets"
        # Rotation is in the metadata of decoded frames only; and a file whose first frame PyAV cannot decode ends here.
        first = PyAVDecoder().first_frame(video)
        if int(first.colorspace) not in LUMA:
            raise SourceError(f"DALI does not convert colours of space {int(first.colorspace)} (of ITU-T H.273)")
        luma = LUMA[int(first.colorspace)]
        correction = colour_correction(luma) if luma != BT_601 else None
        data = np.fromfile(video.path, np.uint8)
        per_call = max(1, CALL_BYTES // (video.height * video.width * 3))
        for start in range(0, len(wanted), per_call):
            numbers = list(wanted[start : start + per_call])
            for number, frame in zip(numbers, self._decode(data, numbers), strict=True):
                meant = frame if correction is None else cv2.transform(frame, correction)
                yield number, rotate(meant, first.rotation)

    def _decode(
        self, data: UInt8[np.ndarray, " bytes"], numbers: list[int]
    ) -> UInt8[np.ndarray, "frames height width 3"]:
        if self._pipeline is None:
            try:
                self._pipeline = _build(self._device_id)
            except RuntimeError as error:
                self._fault = f"DALI does not start on this {self.device.upper()}: {first_reason(str(error))}"
                raise SourceError(self._fault) from error
        try:
            self._pipeline.feed_input("file", [data])
            self._pipeline.feed_input("frames", [np.array(numbers, np.int32)])
            (output,) = self._pipeline.run()
            return np.asarray((output.as_cpu() if self.device == "gpu" else output)[0])
        except RuntimeError as error:
            self._pipeline = None
            raise SourceError(f"DALI cannot decode it: {first_reason(str(error))}") from error


def colour_correction(luma: tuple[float, float]) -> Float[np.ndarray, "3 3"]:
    """Return the matrix that turns RGB made as if by BT.601 into what its luma (shares of red and blue) means."""
    wrong, right = (_rgb_of_yuv(*shares) for shares in (BT_601, luma))
    return right @ np.linalg.inv(wrong)


def _rgb_of_yuv(red: float, blue: float) -> Float[np.ndarray, "3 3"]:
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


def gpu_count() -> int:
    """Return the number of CUDA devices, without loading a CUDA library of our own: 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _build(device_id: int | None) -> Any:
    """Return the pipeline: bytes of a file and frame numbers in, frames out; one file at a time."""
    try:
        # Its modules make their names as they load, which type checkers do not see.
        dali: Any = importlib.import_module("nvidia.dali")
    except ImportError as error:
        raise MissingExtraError("NVIDIA DALI", "gpu", "--decoder dali") from error

    pipeline = dali.Pipeline(
        batch_size=1,
        num_threads=1,
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
