"""Multinomial logistic regression on standardised vectors, down to the one optimum of a convex loss.

Takes vectors and the numbers of their classes, returns the weights. The loss is the mean cross entropy plus l2 / 2
times the sum of the squared weights; biases are free. (scikit-learn's C is 1 / (l2 · N).) Vectors are standardised
first: each entry has mean 0 and standard deviation 1 over those that are fitted.

L-BFGS (torch) in float64 with a strong Wolfe line search goes down until no entry of the gradient exceeds `TOLERANCE`.
Entries of features are far from independent, so it works in the coordinates in which the curvature of the loss, at the
weights where it begins and as a mean over the classes, is the identity: a few dozen evaluations are enough in place of
thousands. There is one optimum, so the result does not depend on the order of the vectors, nor on blocks or threads,
but for what the tolerance leaves.

Cost: 4 · N · L · C multiplications and additions for each evaluation, 2 · N · L² and L³ for the coordinates. Memory:
the vectors in float64 where they have at most `KEPT_BYTES`, else one block of them at a time.

Shapes: N vectors · B vectors of a block · L width · C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

TOLERANCE = 1e-8
STALLED = 1e-15
"""A change of the loss, or of a coordinate, that is rounding."""
ROUND, MOST_ROUNDS = 100, 20
"""Steps of L-BFGS, after which it begins anew in the coordinates of where it has come to; and how often."""
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
        weight = torch.zeros(classes, width, dtype=torch.float64, device=device)
        return cls(weight, torch.zeros(classes, dtype=torch.float64, device=device))

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


def fit(
    rows: Rows, targets: Int64[Tensor, " N"], l2: float, start: Weights, advance: Callable[[], None] = lambda: None
) -> Fit:
    """Return the weights of the least loss for the penalty `l2`, above 0.

    They are sought from `start` on; `advance` is called after each evaluation.
    """
    weights, evaluations = start, 0
    for _ in range(MOST_ROUNDS):
        descent = _Descent(rows, targets, l2, weights, advance)
        ended = descent.run()
        weights, evaluations = descent.weights, evaluations + descent.evaluations
        if ended:
            return Fit(weights, evaluations, True)
    return Fit(weights, evaluations, False)


class _Descent:
    """Some steps towards the optimum, in the coordinates of the weights where they begin."""

    def __init__(
        self, rows: Rows, targets: Int64[Tensor, " N"], l2: float, start: Weights, advance: Callable[[], None]
    ) -> None:
        self.evaluations = 0
        self._rows, self._targets, self._l2, self._advance = rows, targets, l2, advance
        curvature, flat = _curvature_at(rows, start)
        identity = torch.eye(rows.width, dtype=torch.float64, device=rows.device)
        factor = torch.linalg.cholesky(curvature + l2 * identity)
        self._back: Float64[Tensor, "L L"] = torch.linalg.solve_triangular(factor, identity, upper=False)
        self._scale = max(flat, l2) ** 0.5
        """Of the biases: where all vectors are told right nearly surely, hardly any curvature is left."""
        self._weight, self._bias = start.weight @ factor, start.bias * self._scale

    @property
    def weights(self) -> Weights:
        """Where it has come to."""
        return Weights(self._weight @ self._back, self._bias / self._scale)

    def run(self) -> bool:
        """Go on for a round; return whether that ended at the optimum, as far as rounding lets one see."""
        optimizer = torch.optim.LBFGS(
            [self._weight, self._bias],
            max_iter=ROUND,
            max_eval=2 * ROUND,
            tolerance_grad=TOLERANCE,
            tolerance_change=STALLED,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(self._evaluate)
        return bool(optimizer.state[self._weight]["n_iter"] < ROUND and self.evaluations < 2 * ROUND)

    def _evaluate(self) -> Tensor:
        """Return the loss, and leave the gradients at the coordinates."""
        here, rows = self.weights, self._rows
        loss = self._l2 / 2 * here.weight.square().sum()
        of_weight, of_bias = self._l2 * here.weight, torch.zeros_like(self._bias)
        for place, vectors in rows:
            found, wanted = here.log_probabilities(vectors), self._targets[place, None]
            loss -= found.gather(1, wanted).sum() / rows.count
            excess = found.exp_().scatter_add_(1, wanted, torch.full_like(found[:, :1], -1.0)) / rows.count
            of_weight.addmm_(excess.T, vectors)
            of_bias += excess.sum(0)
        self._weight.grad, self._bias.grad = of_weight @ self._back.T, of_bias / self._scale
        self.evaluations += 1
        self._advance()
        return loss


def _curvature_at(rows: Rows, weights: Weights) -> tuple[Float64[Tensor, "L L"], float]:
    """Return the curvature of the cross entropy in the weights of a class, and in its bias, as means over classes."""
    found = torch.zeros(rows.width, rows.width, dtype=torch.float64, device=rows.device)
    total = 0.0
    for _, vectors in rows:
        probabilities = weights.log_probabilities(vectors).exp_()
        doubt = (1 - probabilities.square().sum(1)) / probabilities.shape[1]
        found.addmm_(vectors.T, vectors * doubt[:, None])
        total += float(doubt.sum())
    return found / rows.count, total / rows.count
