"""Which clips have a cut, stand still or come twice: thresholds from the store's own distribution, and what they find.

Takes what was measured of all clips, returns numbers. Each threshold can be set; by default it is found so, always by
medians, which a few odd clips do not move:

- A *cut* is a step that exceeds the other steps of its own clip. The excess of its root over their upper quartile is
  counted in robust standard deviations of the excess over all clips of the store: so a fast pan, all of whose steps are
  large, is none, and neither is a small flicker of a clip that otherwise stands still.
- A *still* moves less than a share of the store's median.
- A *copy* looks as an earlier clip of another video does. The yardstick are the clips of one video: the distance
  1 - cos to the most similar earlier clip of another video is at most the lower quartile of the distances to that of
  the same video, but lies well below what is usual in any case (1.5 robust standard deviations of the logarithms, and
  a quarter of the median).
  Where videos have one clip, it lies far below the usual (2.5 of them). A *repeat* is as near to an earlier clip of its
  own video.

Shapes: N clips · S steps of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from deltactl.curation.alike import Earlier, most_alike_before
from deltactl.curation.read import Measured

NORMAL = 1.4826
"""Standard deviations of a normal distribution in its median absolute deviation."""
CUT = 5.0
STILL = 0.05
WELL_BELOW, FAR_BELOW = 1.5, 2.5
"""Robust standard deviations of the logarithms of distances."""
LEAST_RATIO = float(np.log(4))
"""Of the usual distance to the threshold, as a logarithm, however little distances vary."""
FEWEST_PAIRS = 16
"""Clips of one video that make a yardstick."""
SMALLEST_DISTANCE = 1e-5
"""What rounding makes of the distance of a clip to itself, and more; smaller distances are this."""


@dataclass(frozen=True)
class Thresholds:
    """What counts as what."""

    cut: float = CUT
    """Robust standard deviations."""
    still: float = STILL
    """Share of the median movement."""
    alike: float | None = None
    """Distance, 1 - cos; None: found in the distribution."""


@dataclass(frozen=True)
class Findings:
    """What was found; one entry a clip."""

    cut: float
    """Threshold of `scores`."""
    still: float
    """Threshold of the movement."""
    alike: float
    """Threshold of distances."""
    alike_by: str
    """How that was found, in words."""
    scores: Float32[np.ndarray, "N S"]
    """How much each step stands out."""
    cuts: Bool[np.ndarray, " N"]
    stills: Bool[np.ndarray, " N"]
    copies: Bool[np.ndarray, " N"]
    repeats: Bool[np.ndarray, " N"]
    elsewhere: Earlier
    """The most similar earlier clip of another video, among those without a cut that move."""
    within: Earlier
    """The same of the clip's own video."""

    @property
    def masks(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """What was found, by kind; a clip is of the first kind that fits."""
        return {"cut": self.cuts, "still": self.stills, "copy": self.copies, "repeat": self.repeats}


def find(
    measured: Measured,
    thresholds: Thresholds = Thresholds(),
    *,
    rows: Bool[np.ndarray, " N"] | None = None,
    device: str = "cpu",
) -> Findings:
    """Return what there is among clips; `rows`: those that are compared with all others, by default all."""
    scores = cut_scores(measured.changes)
    still = thresholds.still * float(np.median(measured.movement))
    stills = measured.movement <= still
    cuts = (scores >= thresholds.cut).any(1) & ~stills
    whole = np.flatnonzero(~cuts & ~stills)
    earlier = most_alike_before(measured.looks, measured.videos, among=whole, rows=rows, device=device)
    elsewhere, within = (1 - each.cosine[np.isfinite(each.cosine)] for each in earlier)
    alike, by = (thresholds.alike, "set") if thresholds.alike is not None else alike_threshold(elsewhere, within)
    copies, repeats = (1 - each.cosine <= alike for each in earlier)
    return Findings(
        thresholds.cut, still, alike, by, scores, cuts, stills, copies, repeats & ~copies, earlier[0], earlier[1]
    )


def cut_scores(changes: Float32[np.ndarray, "N S"]) -> Float32[np.ndarray, "N S"]:
    """Return by how many robust deviations each step exceeds the others of its clip more than is usual in the store.

    Of clips of one step: by how many it exceeds what is usual in the store.
    """
    steps = changes.shape[1]
    excess = np.sqrt(changes.astype(np.float64))
    if steps > 1:
        others = [np.quantile(np.delete(excess, step, 1), 0.75, axis=1) for step in range(steps)]
        excess = excess - np.stack(others, 1)
    middle, deviation = _middle_and_deviation(excess)
    return np.asarray((excess - middle) / max(deviation, 1e-12), np.float32)


def alike_threshold(elsewhere: Float[np.ndarray, " n"], within: Float[np.ndarray, " m"]) -> tuple[float, str]:
    """Return the distance up to which clips look the same, and how it was found, in words.

    From the distances of clips to the most similar earlier one of another video, and of the same video.
    """
    if not len(elsewhere):
        return 0.0, "there is nothing to compare"
    middle, deviation = _middle_and_deviation(np.log(np.maximum(elsewhere, SMALLEST_DISTANCE)))
    usual = f"the usual distance of two videos' clips, {np.exp(middle):.2g}"
    if len(within) < FEWEST_PAIRS:
        return float(np.exp(middle - max(FAR_BELOW * deviation, LEAST_RATIO))), f"far below {usual}"
    quartile = float(np.quantile(within, 0.25))
    well_below = float(np.exp(middle - max(WELL_BELOW * deviation, LEAST_RATIO)))
    if quartile <= well_below:
        return quartile, "as near as the nearest quarter of the clips of one video"
    return well_below, f"well below {usual}"


def _middle_and_deviation(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Return the median, and the robust standard deviation."""
    middle = float(np.median(values))
    return middle, NORMAL * float(np.median(np.abs(values - middle)))
