"""Mean and standard deviation of each channel of a store: counted clip by clip as it is written, merged in the index.

A frame's features come with their mean and variance over patches from the device that computed them (`events.Found`);
where they do not, or where float32 cannot hold the squares, they are taken here in float64 from what is stored. Frames
are merged in the order of the rows, groups in that of views and shards, so that neither the number of workers nor the
order in which they end makes a difference. Merging is Chan's: no sum of squares in which a small deviation beside a
large mean is lost. Costs 2 × `D` additions a frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from deltactl.fields import Fields


@dataclass(frozen=True)
class Statistics:
    """Of some vectors of one width: how many there are, and each channel's mean and (population) variance."""

    count: int
    mean: Float64[np.ndarray, " D"]
    variance: Float64[np.ndarray, " D"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "*item D"]) -> Statistics:
        """Return those of real numbers, in float64."""
        vectors = values.reshape(-1, values.shape[-1]).astype(np.float64)
        if not len(vectors):
            return cls(0, np.zeros(values.shape[-1]), np.zeros(values.shape[-1]))
        mean = vectors.mean(0)
        return cls(len(vectors), mean, np.square(vectors - mean).mean(0))

    @property
    def std(self) -> Float64[np.ndarray, " D"]:
        """The standard deviation of each channel."""
        return np.asarray(np.sqrt(self.variance))

    @classmethod
    def merged(cls, parts: Iterable[Statistics], dim: int) -> Statistics:
        """Return those of all parts together, merged in their order."""
        count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
        for part in parts:
            if not part.count:
                continue
            total = count + part.count
            apart = part.mean - mean
            squares = squares + part.variance * part.count + np.square(apart) * (count * part.count / total)
            mean = mean + apart * (part.count / total)
            count = total
        return cls(count, mean, squares / max(count, 1))

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return {"count": self.count, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def read(cls, value: Fields, dim: int) -> Statistics | None:
        """Return what an index or a group says under `statistics`; None where it says nothing, as earlier ones.

        Raises:
            DamagedError: it says something else.
        """
        if "statistics" not in value:
            return None
        said = value.nested("statistics")
        columns = []
        for name in ("mean", "std"):
            numbers = said.array(name)
            if len(numbers) != dim or not all(
                isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in numbers
            ):
                raise said.wrong(name, numbers, f"{dim} numbers")
            columns.append(np.array(numbers, np.float64))
        mean, std = columns
        return cls(said.integer("count"), mean, np.square(std))
