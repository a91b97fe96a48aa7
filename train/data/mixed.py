"""The samples of several sets as one source: finds the set of each place, and lets that set's own source read it.

Takes places of the whole stream, returns batches in which the samples of each set stand together, set after set: a
loss is a mean over samples, and what is drawn for one depends on its place alone. Where the sets' numbers are of one
type and shape all of them are read into one buffer, with no copy behind it; numbers of unlike types become float32.

Shapes: B batch · T frames of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from deltactl.train.data.batches import Batch, Source
from deltactl.train.data.carried import joined
from deltactl.train.data.mixing import InTurn, Mixing


class MixedSource:
    """Samples of several sets, in the order of a `Mixing` (training) or one set after the other (validation)."""

    def __init__(
        self,
        sources: Sequence[Source],
        names: Sequence[str],
        mixing: Mixing | InTurn,
        *,
        same_type: bool = True,
        columns: Sequence[str] = (),
    ) -> None:
        """Set up.

        `names` are those of the sets, for messages; `same_type`: whether their numbers are of one type; `columns`: what
        the samples of all of them carry alike.
        """
        self.clips = sum(source.clips for source in sources)
        self._sources = tuple(sources)
        self._names = tuple(names)
        self._mixing = mixing
        self._same_type = same_type
        self._columns = tuple(columns)
        like = {
            None if (buffer := source.buffer(0)) is None else (buffer.dtype, buffer.shape[1:]) for source in sources
        }
        self._one_buffer = same_type and len(like) == 1 and None not in like

    def keys(self, places: Int64[np.ndarray, " B"]) -> tuple[str, ...]:
        """Return the keys of the clips at these places, each with its set."""
        at = self._mixing.at(places)
        return tuple(
            f"{self._sources[number].keys(at.place[index : index + 1])[0]} of {self._names[number]}"
            for index, number in enumerate(at.number.tolist())
        )

    def start(
        self, places: Int64[np.ndarray, " B"], out: Shaped[Tensor, "B T *rest"] | None = None
    ) -> Callable[[], Batch]:
        """Begin to read the samples of each set."""
        at = self._mixing.at(places)
        order = np.argsort(at.number, kind="stable")
        numbers, counts = np.unique(at.number, return_counts=True)
        ends = np.cumsum(counts).tolist()
        if self._one_buffer and out is None:
            out = self.buffer(len(places))
        waits = []
        for number, first, end in zip(numbers.tolist(), [0, *ends[:-1]], ends, strict=True):
            part = None if out is None else out[first:end]
            waits.append(self._sources[number].start(at.place[order[first:end]], part))
        dtype = None if self._same_type else torch.float32
        return lambda: _joined([wait() for wait in waits], places[order], out, dtype, self._columns)

    def buffer(self, samples: int) -> Shaped[Tensor, "B T *rest"] | None:
        """Return what the samples are read into; None where the sets' are unlike."""
        return self._sources[0].buffer(samples) if self._one_buffer else None


def _joined(
    parts: Sequence[Batch],
    places: Int64[np.ndarray, " B"],
    data: Shaped[Tensor, "B T *rest"] | None,
    dtype: torch.dtype | None,
    columns: Sequence[str],
) -> Batch:
    """Return the batch of the parts, which lie in `data` already where it is given; `dtype` None keeps their type."""
    first = parts[0]
    if data is None:
        # Tokens of one set may have had room on the GPU, and those of another not.
        device = next((part.data.device for part in parts if part.data.is_cuda), first.data.device)
        data = torch.cat([part.data.to(device, dtype or part.data.dtype) for part in parts])
    times = torch.cat([part.times.to(data.device if first.kind == "tokens" else "cpu") for part in parts])
    carried = joined([part.columns for part in parts], columns)
    return replace(first, data=data, times=times, places=places, sorted_by_set=len(parts) > 1, columns=carried)
