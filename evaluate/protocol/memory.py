"""Fewer at once where a GPU's memory is full: of crops, of samples, of frames; said once, and kept.

Batches start as large as the device's memory suggests (`futures.sequences_at_once`); other processes or other networks
can make that too much. A batch that does not fit is computed again in halves, and so is everything after it; the
results are the same, up to the rounding of another batch. Where not even one item fits, the error names the settings
that need less.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from deltactl.devices import free_memory, full_memory
from deltactl.errors import ConfigError
from deltactl.gpu_faults import fault_of, is_out_of_memory

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class AtOnce:
    """How many of something go through the networks at once in this process; fewer after memory was full."""

    def __init__(self, name: str, most: int, device: torch.device) -> None:
        """`name` is what the line that tells calls them, such as "crops"."""
        self.name = name
        self.most = max(1, most)
        self._device = device

    def pieces(self, total: int, do: Callable[[int, int], Result], each: int = 1) -> Iterator[Result]:
        """Yield `do(start, stop)` of pieces of `total` items, in order; each item counts for `each` of `most`.

        A piece that the memory has no room for is halved and done again; where that was one item, torch's error is
        raised.
        """
        start = 0
        while start < total:
            stop = min(start + max(1, self.most // each), total)
            try:
                result = do(start, stop)
            except Exception as error:
                if stop - start == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield result
                start = stop
                continue
            # Behind the clause above, since the error holds on to the memory that is to be freed.
            self._halve(stop - start, each)

    def _halve(self, tried: int, each: int) -> None:
        fewer = tried // 2
        self.most = fewer * each
        free_memory(self._device)
        log.warning(
            "the memory of %s is full with %d %s at once; it goes on with %d", self._device, tried, self.name, fewer
        )


@contextlib.contextmanager
def memory_faults(device: str, what: str, smaller: str) -> Iterator[None]:
    """Turn CUDA's errors into errors of ours.

    `device` is what `--device` says, `smaller` which settings need less memory, with their present values.

    Raises:
        ConfigError: memory is full even for `what`, or the card cannot be used.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            place = torch.device("cuda" if device == "auto" else device)
            raise ConfigError(f"{full_memory(place, what)}; what needs less: {smaller}") from error
        if found := fault_of(error):
            raise ConfigError(f"--device is {device}, and {found}") from error
        raise
