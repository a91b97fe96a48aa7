"""How strongly the weights of a probe are held down: chosen on vectors that the fit does not see.

Takes vectors that are fitted and others, returns the strength whose fit gives the others the least cross entropy, which
is steadier than the share of right ones where they are few. The grid is walked from strong to weak, each fit beginning
where the one before ended, and left after `PATIENCE` strengths in a row that were no better: the weak ones take the
most steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from deltactl.evaluate.probe.logistic import Fit, Rows, Weights, fit

log = logging.getLogger(__name__)

GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
PATIENCE = 2
WITHOUT_CHOICE = 0.1
"""The strength where no video can be left out to choose it on."""


@dataclass(frozen=True)
class Tried:
    """A strength, and what its fit gave of the vectors that it did not see."""

    l2: float
    cross_entropy: float
    right: float
    """Share whose class is the likeliest."""
    fit: Fit

    def to_json(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "l2": self.l2,
            "cross_entropy": self.cross_entropy,
            "right": self.right,
            "evaluations": self.fit.evaluations,
            "converged": self.fit.converged,
        }


def try_strengths(
    fitted: tuple[Rows, Int64[Tensor, " N"]],
    others: tuple[Rows, Int64[Tensor, " M"]],
    classes: int,
    advance: Callable[[], None] = lambda: None,
    grid: Sequence[float] = GRID,
) -> list[Tried]:
    """Return what was tried, in order, from vectors with their classes and others with theirs."""
    rows, targets = fitted
    weights = Weights.zeros(classes, rows.width, rows.device)
    tried: list[Tried] = []
    for l2 in grid:
        found = fit(rows, targets, l2, weights, advance)
        weights = found.weights
        tried.append(Tried(l2, *weights.cross_entropy(*others), found))
        if len(tried) - 1 - tried.index(best_of(tried)) >= PATIENCE:
            break
    return tried


def best_of(tried: Sequence[Tried]) -> Tried:
    """Return the first of the least cross entropy, which is the strongest."""
    return min(tried, key=lambda each: each.cross_entropy)
