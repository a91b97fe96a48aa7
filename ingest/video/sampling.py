"""Which frames a training clip holds: pure functions of the frame times, the seed, the source and the clip's number.

Takes the times of a video's frames in seconds, sorted, as its container tells them; returns the numbers of the frames
of each clip. As in the paper (arXiv 2604.04913): a start drawn uniformly, each step to the next frame drawn
uniformly from [1/25, 1/3] s (or another `stride`), then the frame nearest to each drawn time. Every draw has a
generator of its own, so a clip does not depend on how many others are cut, in which order, or on which machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

STRIDE = (1 / 25, 1 / 3)
"""The paper's range of times from one frame to the next, in seconds."""


@dataclass(frozen=True)
class SampledClip:
    """The frames of one clip, in time order; a video shorter than the draw repeats frames."""

    indices: tuple[int, ...]
    """Numbers of the frames in their source, in display order, from 0."""
    times: tuple[float, ...]
    """Their times in seconds, as the container tells them."""
    columns: Mapping[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict, compare=False)
    """What is known of the frames and the clip besides, by name (see `video.columns`)."""


def sample_clips(
    times: Float[np.ndarray, " n"],
    *,
    source: str,
    seed: int,
    clips: int,
    frames: int,
    stride: tuple[float, float] = STRIDE,
) -> tuple[SampledClip, ...]:
    """Return `clips` clips of `frames` frames each, of a source whose frames have these sorted times (seconds).

    Raises:
        ValueError: there are no times, or they are not finite or not sorted.
    """
    if len(times) == 0:
        raise ValueError(f"{source} has no frames")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError(f"the frame times of {source} are not finite or not sorted")
    drawn = (
        draw_times(float(times[0]), float(times[-1]), frames, clip_generator(seed, source, c), stride)
        for c in range(clips)
    )
    chosen = (nearest_frames(times, wanted) for wanted in drawn)
    return tuple(SampledClip(tuple(map(int, each)), tuple(map(float, times[each]))) for each in chosen)


def draw_times(
    first: float,
    last: float,
    frames: int,
    generator: np.random.Generator,
    stride: tuple[float, float] = STRIDE,
) -> Float[np.ndarray, " frames"]:
    """Return the drawn times of a clip's frames, in seconds, in a video whose first and last frames have these times.

    `stride` is the range that each step is drawn from, in seconds.

    Where the video is too short for the steps, the clip starts at `first` and its end lies beyond `last`.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    fraction = generator.random()
    steps = generator.uniform(*stride, frames - 1)
    offsets = np.concatenate([[0.0], np.cumsum(steps)])
    start = first + fraction * max(0.0, last - first - float(offsets[-1]))
    return np.asarray(start + offsets)


def nearest_frames(times: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return, for each wanted time, the number of the frame nearest to it; the earlier of two at equal distance."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    before = after - 1
    if len(times) == 1:
        return np.zeros(len(wanted), dtype=np.int64)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)


def clip_generator(seed: int, source: str, clip: int) -> np.random.Generator:
    """Return the random generator of one clip: the same on every machine and in every version of Python."""
    text = f"{seed}\0{source}\0{clip}".encode("utf-8", "surrogateescape")
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text).digest())))
