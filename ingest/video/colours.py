"""What colours a video's YCbCr samples mean: one definition for all decoders.

Takes decoded frames, returns 8-bit RGB pictures. The definition is FFmpeg's (swscale with its defaults): the matrix
that the stream names by its number in ITU-T H.273, BT.601 if it names none, and limited range unless it says full.
PyAV's frames are converted by swscale itself (`rgb_of_frame`).

A decoder that returns RGB only, and takes every video for BT.601, clips what does not fit in 0 to 255; no matrix can
correct that afterwards. `Recolouring` therefore starts from RGB that was made as if the samples were of full range (the
label of the stream can be changed without touching the samples). For a video of limited range that RGB has room at both
ends: YCbCr can be recovered to within a rounding step, and our own matrix makes the right colours of it. If a sample
was clipped all the same, and the true colour would look different, the picture is refused. Cost: 0.3 ms for a frame of
340 × 256 pixels, 6 ms for 1080p.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from deltactl.errors import SourceError

BT_601 = 5
UNSPECIFIED = 2
FULL_RANGE = 2
"""How FFmpeg numbers full range."""
LUMA = {
    1: (0.2126, 0.0722),  # BT.709
    UNSPECIFIED: (0.299, 0.114),
    4: (0.30, 0.11),  # FCC
    BT_601: (0.299, 0.114),  # BT.601 of 625 lines
    6: (0.299, 0.114),  # BT.601 of 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, not of constant luminance
}
"""Shares of red and blue in luma by the number of the colour space in ITU-T H.273."""
TRUNCATION = {False: (0.7, 1.2, 0.7), True: (0.35, 0.85, 0.35)}
"""By how much swscale's red, green and blue are less than exact ones in the mean, for limited and full range: it cuts
off fractions, in each of its steps."""
VISIBLE = 1.5
"""Levels by which a clipped sample may change a colour before the picture is refused."""


@dataclass(frozen=True)
class Colours:
    """What the samples of a video mean."""

    space: int
    """Number of the matrix in ITU-T H.273."""
    full: bool
    """Whether 0 is black and 255 white, rather than 16 and 235."""

    @cached_property
    def rgb_of_samples(self) -> Float[np.ndarray, "3 4"]:
        """The matrix that makes RGB (0 to 255) of (Y, Cb, Cr, 1) as they are stored."""
        red, blue = LUMA[self.space]
        green = 1 - red - blue
        matrix = np.array(
            [
                [1, 0, 2 * (1 - red)],
                [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
                [1, 2 * (1 - blue), 0],
            ]
        )
        if not self.full:
            matrix = matrix * [255 / 219, 255 / 224, 255 / 224]
        zero = [0 if self.full else 16, 128, 128]
        return np.hstack([matrix, -matrix @ np.array(zero)[:, None]])


def colours_of(frame: Any) -> Colours:
    """Return what the samples of a frame (PyAV's `VideoFrame`) mean.

    Raises:
        SourceError: the matrix of its colour space is not known here.
    """
    space = int(frame.colorspace)
    if space not in LUMA:
        raise SourceError(f"colours of space {space} (of ITU-T H.273) are not known here")
    full = int(frame.color_range) == FULL_RANGE or str(frame.format.name).startswith("yuvj")
    return Colours(space, full)


def rgb_of_frame(frame: Any, reformatter: VideoReformatter) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame (PyAV's `VideoFrame`) as RGB."""
    return np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())


class Recolouring:
    """Turns RGB that was made by the colours `taken` into what the colours `meant` make of the same samples."""

    def __init__(self, taken: Colours, meant: Colours) -> None:
        self._same = LUMA[taken.space] == LUMA[meant.space] and taken.full == meant.full
        last = [0.0, 0.0, 0.0, 1.0]
        samples_of_rgb = np.linalg.inv(np.vstack([taken.rgb_of_samples, last]))
        self.matrix: Float[np.ndarray, "3 4"] = meant.rgb_of_samples @ samples_of_rgb
        """Makes the RGB meant of the RGB taken and a 1."""
        self._shifted = self.matrix - np.hstack([np.zeros((3, 3)), np.array(TRUNCATION[meant.full])[:, None]])
        # How far beyond 0 to 255 the RGB taken can lie: the samples have 8 bits.
        corners = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255], [1]), -1).reshape(-1, 4)
        reached = corners @ taken.rgb_of_samples.T
        self._below, self._above = np.maximum(0, -reached.min(0)), np.maximum(0, reached.max(0) - 255)
        grey = np.array([[[0, 0, 0]], [[255, 255, 255]]], np.uint8)
        self._plain = [
            level for level, hidden in zip((0, 255), self._undecided(grey.reshape(2, 3)), strict=True) if not hidden
        ]

    def apply(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture in the colours meant.

        Raises:
            SourceError: samples were clipped, and their true colours would look different.
        """
        if not self._same:
            self._check_clipping(image)
        return np.asarray(cv2.transform(image, self._shifted))

    def _check_clipping(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        known = cv2.inRange(image, (1, 1, 1), (254, 254, 254))
        for level in self._plain:  # black bars and highlights, which are many
            known = cv2.bitwise_or(known, cv2.inRange(image, (level,) * 3, (level,) * 3))
        if cv2.countNonZero(known) < known.size:
            red, green, blue = image[known == 0].astype(np.uint32).T
            packed = np.unique(red << 16 | green << 8 | blue)
            colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
            if self._undecided(colours).any():
                raise SourceError("it has colours so saturated that DALI clips them")

    def _undecided(self, colours: UInt8[np.ndarray, "colours 3"]) -> np.ndarray:
        """Return for each colour whether what was clipped from it can be seen in the colour meant."""
        values = colours @ self.matrix[:, :3].T + self.matrix[:, 3]
        beyond = (colours == 255) * self._above - (colours == 0) * self._below
        change = beyond[:, None, :] * self.matrix[None, :, :3]
        least = np.clip(values + np.minimum(change, 0).sum(-1), 0, 255)
        most = np.clip(values + np.maximum(change, 0).sum(-1), 0, 255)
        return np.asarray((most - least > VISIBLE).any(-1))
