"""Writes small videos of known content, to see what a decoder makes of each codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from deltactl.errors import SourceError

ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mpeg4": "mpeg4",
    "vp8": "libvpx",
    "mjpeg": "mjpeg",
}
"""FFmpeg's encoder for the test video of each codec."""
PROBE_FRAMES, PROBE_SIDE = 4, 256


def write_probe(path: Path, codec: str) -> None:
    """Write a grey square video of `PROBE_FRAMES` frames of `PROBE_SIDE` pixels.

    Raises:
        SourceError: PyAV has no encoder for the codec.
    """
    try:
        encoder = ENCODERS[codec]
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(encoder, rate=25)
            stream.width = stream.height = PROBE_SIDE
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if codec == "hevc":
                stream.options = {"x265-params": "log-level=none"}
            for level in range(PROBE_FRAMES):
                picture = np.full((PROBE_SIDE, PROBE_SIDE, 3), 50 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    except (KeyError, ValueError, OSError) as error:  # FFmpeg's errors are ValueError or OSError
        raise SourceError(f"no test video: {error}") from error
