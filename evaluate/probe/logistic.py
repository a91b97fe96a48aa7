"""Multinomial logistic regression on standardised vectors, down to the one optimum of a convex loss.

Takes vectors and the numbers of their classes, returns the weights. The loss is the mean cross entropy plus l2 / 2
times the sum of the squared weights; biases are free. (scikit-learn's C is 1 / (l2 · N).) Vectors are standardised
first: each entry has mean 0 and standard deviation 1 over those that are fitted.

L-BFGS (torch) in float64 with a strong Wolfe line search goes down until no entry of the gradient exceeds `TOLERANCE`.
It works in the coordinates in which the loss of equal probabilities has the identity for a Hessian (its Cholesky
factor, from the correlations of the entries), which takes ten to a hundred times fewer steps: entries of features are
far from independent. There is one optimum, so the result does not depend on the order of the vectors, nor on blocks or
threads, but for what the tolerance leaves: about 1e-13 of the loss.

Cost: 4 · N · L · C multiplications and additions for each of some dozens of evaluations, N · L² and L³ for the Hessian.
Memory: the vectors in float64 where they have at most `KEPT_BYTES`, else one block of them at a time.

Shapes: N vectors · B vectors of a block · L width · C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

TOLERANCE = 1e-7
STALLED = 1e-15
"""A change of the loss, or of a weight, that is rounding."""
MOST_STEPS = 1000
"""Of L-BFGS, in one fit."""
HISTORY = 20
"""Earlier steps that L-BFGS knows the curvature from."""
BLOCK = 4096
"""Vectors that are multiplied at once."""
KEPT_BYTES = 1 << 30
CONSTANT = 1e-6
"""An entry whose standard deviation is below this, relative to its mean, is one number and its rounding."""


@dataclass(frozen=True)
class Standard:
    """What is subtracted from each entry of a vector, and what it is divided by."""

    mean: Float64[Tensor, " L"]
    scale: Float64[Tensor, " L"]
    """Standard deviation; 1 for an entry that is constant."""

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "M L"], numbers: Int64[np.ndarray, " N"]) -> Standard:
        """Return that of some of the vectors."""
        parts = [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]
        width = vectors.shape[1]
        mean, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for part in parts:
            mean += torch.from_numpy(vectors[part]).double().sum(0)
        mean /= len(numbers)
        for part in parts:
            square += (torch.from_numpy(vectors[part]).double() - mean).square_().sum(0)
        deviation = (square / len(numbers)).sqrt()
        constant = deviation <= CONSTANT * mean.abs().clamp(min=torch.finfo(torch.float32).tiny)
        return cls(mean, torch.where(constant, 1.0, deviation))

    def apply(self, vectors: Float32[np.ndarray, "B L"], device: torch.device) -> Float64[Tensor, "B L"]:
        """Return vectors as a probe sees them."""
        mean, scale = self.mean.to(device), self.scale.to(device)
        return torch.from_numpy(vectors).to(device, torch.float64).sub_(mean).div_(scale)


class Rows:
    """Some of the vectors, standardised, block by block, as often as they are asked for."""

    def __init__(
        self,
        vectors: Float32[np.ndarray, "M L"],
        numbers: Int64[np.ndarray, " N"],
        standard: Standard,
        device: torch.device,
    ) -> None:
        self.count, self.width, self.device = len(numbers), vectors.shape[1], device
        self._vectors, self._numbers, self._standard = vectors, numbers, standard
        self._kept = list(self._read()) if self.count * self.width * 8 <= KEPT_BYTES else None

    def __iter__(self) -> Iterator[tuple[slice, Float64[Tensor, "B L"]]]:
        """Yield blocks in order, each with its place."""
        return iter(self._read() if self._kept is None else self._kept)

    def _read(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.count, BLOCK):
            place = slice(start, min(start + BLOCK, self.count))
            yield place, self._standard.apply(self._vectors[self._numbers[place]], self.device)


@dataclass(frozen=True)
class Weights:
    """A linear map from standardised vectors to the scores of classes."""

    weight: Float64[Tensor, "C L"]
    bias: Float64[Tensor, " C"]

    @classmethod
    def zeros(cls, classes: int, width: int, device: torch.device) -> Weights:
        """Return where a fit begins: all classes are equally likely."""
        options = {"dtype": torch.float64, "device": device}
        return cls(torch.zeros(classes, width, **options), torch.zeros(classes, **options))

    def to(self, device: torch.device) -> Weights:
        """Return the same on a device."""
        return Weights(self.weight.to(device), self.bias.to(device))

    def log_probabilities(self, vectors: Float64[Tensor, "B L"]) -> Float64[Tensor, "B C"]:
        """Return the logarithms of the classes' probabilities."""
        return torch.log_softmax(torch.addmm(self.bias, vectors, self.weight.T), 1)

    def cross_entropy(self, rows: Rows, targets: Int64[Tensor, " N"]) -> tuple[float, float]:
        """Return the mean cross entropy, and the share whose class is the likeliest."""
        loss, right = 0.0, 0
        for place, vectors in rows:
            found = self.log_probabilities(vectors)
            loss -= float(found.gather(1, targets[place, None]).sum())
            right += int((found.argmax(1) == targets[place]).sum())
        return loss / rows.count, right / rows.count


@dataclass(frozen=True)
class Fit:
    """The result of a fit."""

    weights: Weights
    evaluations: int
    """Of the loss over all vectors."""
    converged: bool
    """Whether the gradient came below the tolerance, or the loss as low as its rounding allows."""


def curvature_of(rows: Rows) -> Float64[Tensor, "L L"]:
    """Return the mean of the outer products of the vectors, from which a fit has its coordinates."""
    found = torch.zeros(rows.width, rows.width, dtype=torch.float64, device=rows.device)
    for _, vectors in rows:
        found.addmm_(vectors.T, vectors)
    return found / rows.count


def fit(
    rows: Rows,
    targets: Int64[Tensor, " N"],
    l2: float,
    start: Weights,
    curvature: Float64[Tensor, "L L"],
    advance: Callable[[], None] = lambda: None,
) -> Fit:
    """Return the weights of the least loss for the penalty `l2`, above 0; it is sought from `start` on.

    `curvature` is `curvature_of(rows)`; `advance` is called after each evaluation.
    """
    classes = len(start.bias)
    flat = (classes - 1) / classes**2
    """What the curvature of the cross entropy is multiplied by where all classes are equally likely."""
    identity = torch.eye(rows.width, dtype=torch.float64, device=rows.device)
    factor = torch.linalg.cholesky(flat * curvature + l2 * identity)
    back = torch.linalg.solve_triangular(factor, identity, upper=False)
    weight, bias = start.weight @ factor, start.bias * flat**0.5
    evaluations = 0

    def now() -> Weights:
        return Weights(weight @ back, bias / flat**0.5)

    def evaluate() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        here = now()
        loss = l2 / 2 * here.weight.square().sum()
        of_weight, of_bias = l2 * here.weight, torch.zeros_like(bias)
        for place, vectors in rows:
            found, wanted = here.log_probabilities(vectors), targets[place, None]
            loss -= found.gather(1, wanted).sum() / rows.count
            excess = found.exp_().scatter_add_(1, wanted, torch.full_like(found[:, :1], -1.0)) / rows.count
            of_weight.addmm_(excess.T, vectors)
            of_bias += excess.sum(0)
        weight.grad, bias.grad = of_weight @ back.T, of_bias / flat**0.5
        advance()
        return loss

    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=STALLED,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(evaluate)
    steps = optimizer.state[weight]["n_iter"]
    return Fit(now(), evaluations, steps < MOST_STEPS and evaluations < 2 * MOST_STEPS)
