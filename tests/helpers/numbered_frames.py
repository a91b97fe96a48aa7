"""Reads the numbers of frames back, as a decoder gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from videos import read_number

from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video

UNEVEN = np.cumsum(np.random.default_rng(0).integers(10, 300, 60) / 1000).tolist()
"""Seconds of 60 frames, as no camera would make them."""
CHOICES: list[Sequence[int]] = [[0], [59], [29, 30, 31], [3, 17, 58], [5, 6, 22, 41, 44, 45], range(60)]


def numbers(decoder: PyAVDecoder | DaliDecoder, video: Video, wanted: Sequence[int]) -> dict[int, int]:
    return {index: read_number(image) for index, image in decoder.frames(video, list(wanted))}
