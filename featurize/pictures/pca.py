"""Features as colours, to look at: three principal components for red, green and blue.

Fits on patch features `(N, D)` (those of the true frames of a clip), and turns these or any others of the same width
into bytes: equal colours mean equal features in every picture that one fit made. The same features give
the same colours: components come from a symmetric eigenproblem in float64 and their signs are fixed. Fitting 7,168
patches of width 768 takes a third of a second on a CPU.

`N` patches · `D` feature width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

COLOURS = 3
PERCENT = (1.0, 99.0)
"""What of a component is shown from darkest to brightest; the few patches beyond are clipped."""
FLAT = 1e-5
"""A component that varies less than this, relative to the first, is rounding: shown as mid-grey, not blown up."""


@dataclass(frozen=True)
class FeatureColours:
    """A fitted map from features to colours; see `fit`."""

    mean: Float64[Tensor, " D"]
    components: Float64[Tensor, "D 3"]
    """Unit columns, the most varying first."""
    low: Float64[Tensor, " 3"]
    """Projections that are shown as 0."""
    high: Float64[Tensor, " 3"]
    """Projections that are shown as 255; equal to `low` where the component shows nothing."""

    @classmethod
    def fit(cls, features: Float[Tensor, "*N D"]) -> FeatureColours:
        """Return the map fitted on these features, any number of leading dimensions; at least one patch, width 3.

        Raises:
            ValueError: there are fewer, or a value is not finite.
        """
        rows = features.reshape(-1, features.shape[-1]).double().cpu()
        if len(rows) == 0 or rows.shape[1] < COLOURS:
            raise ValueError(f"features are {tuple(features.shape)}; expected a patch or more, {COLOURS} wide or more")
        if not torch.isfinite(rows).all():
            raise ValueError("features hold NaN or infinite values; expected those of a whole clip")
        mean = rows.mean(dim=0)
        centred = rows - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))  # ascending
        components = vectors.flip(1)[:, :COLOURS]
        # An eigenvector's sign is the library's choice; here its largest entry is positive.
        largest = components.abs().argmax(dim=0, keepdim=True)
        components = components * components.gather(0, largest).sign()
        projected = centred @ components
        low, high = (torch.quantile(_some(projected), percent / 100, dim=0) for percent in PERCENT)
        flat = projected.std(dim=0, correction=0) <= FLAT * projected[:, 0].std(correction=0)
        return cls(mean, components, low, torch.where(flat, low, high))

    def rgb(self, features: Float[Tensor, "*N D"]) -> UInt8[Tensor, "*N 3"]:
        """Return the colour of each patch, on the CPU; values beyond the range of the fit are clipped."""
        projected = (features.cpu().double() - self.mean) @ self.components
        span = self.high - self.low
        shown = torch.where(span > 0, (projected - self.low) / span.clamp_min(torch.finfo(span.dtype).tiny), 0.5)
        return (shown.clamp(0, 1) * 255).round().to(torch.uint8)


def _some(rows: Float64[Tensor, "N 3"]) -> Float64[Tensor, "M 3"]:
    """Return rows spread evenly, no more than torch's quantile takes."""
    return rows[:: 1 + len(rows) // 1_000_000]
