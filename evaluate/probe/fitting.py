"""Fits a probe on the vectors of some clips: how strongly it is held down, then all of them with that strength.

Takes vectors, the classes and videos of those that train, returns a standard, weights, and what was tried. The strength
is chosen by holding out videos of the training part, so that what is held out for the result has no say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from deltactl.evaluate.probe.labels import hold_out
from deltactl.evaluate.probe.logistic import Fit, Rows, Standard, Weights, fit
from deltactl.evaluate.probe.strength import WITHOUT_CHOICE, Tried, best_of, try_strengths
from deltactl.progress import Progress

CHOSEN_ON = 0.2
"""Share of the training videos that the strength is chosen on."""


@dataclass(frozen=True)
class Training:
    """The vectors that train, and what is known of them: N samples of C classes."""

    numbers: Int64[np.ndarray, " N"]
    """Rows of the matrix."""
    truth: Int64[np.ndarray, " N"]
    videos: tuple[str, ...]
    classes: int


@dataclass(frozen=True)
class Fitted:
    """A probe's numbers."""

    weights: Weights
    standard: Standard
    l2: float
    tried: tuple[Tried, ...]
    """Strengths, where one was chosen."""
    fit: Fit


def fit_probe(
    vectors: Float32[np.ndarray, "M L"], training: Training, seed: int, l2: float | None, device: torch.device
) -> Fitted:
    """Return the probe of the training vectors; `seed` draws the videos that the strength is chosen on.

    `l2` is a strength that is not chosen. Where no video can be spared to choose it on, it is `WITHOUT_CHOICE`.
    """
    with Progress(None, unit="evaluations", label="fit") as progress:
        tried: tuple[Tried, ...] = ()
        start = Weights.zeros(training.classes, vectors.shape[1], device)
        if l2 is None:
            tried = tuple(_tried(vectors, training, seed, device, progress))
            l2 = WITHOUT_CHOICE
            if tried:
                best = best_of(tried)
                l2, start = best.l2, best.fit.weights
        standard = Standard.of(vectors, training.numbers)
        rows = Rows(vectors, training.numbers, standard, device)
        found = fit(rows, _on(training.truth, device), l2, start, progress.advance)
    return Fitted(found.weights, standard, l2, tried, found)


def _tried(
    vectors: Float32[np.ndarray, "M L"], training: Training, seed: int, device: torch.device, progress: Progress
) -> Sequence[Tried]:
    """Return what was tried on a part of the training videos; nothing where none can be held out."""
    labels = [str(number) for number in training.truth.tolist()]
    out = hold_out(training.videos, labels, CHOSEN_ON, f"{seed}:strength:")
    if not out.any():
        return []
    standard = Standard.of(vectors, training.numbers[~out])
    fitted, others = (
        (Rows(vectors, training.numbers[mask], standard, device), _on(training.truth[mask], device))
        for mask in (~out, out)
    )
    return try_strengths(fitted, others, training.classes, progress.advance)


def _on(truth: Int64[np.ndarray, " N"], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(truth)).to(device)
