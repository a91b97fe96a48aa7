"""One interface for all decoders, and the choice of one for each file.

Takes an open `Video` and the numbers of the wanted frames, yields uint8 RGB frames. PyAV decodes everything on the CPU,
and is what `auto` means: DALI on a GPU is expected to be at best as fast as sixteen cores, which has not been measured.
`dali` gives DALI the files that it decodes correctly for sure, on a GPU if there is one, and PyAV the others. Decoding
on a GPU has been tested on the same graph on a CPU only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from deltactl.ingest.decode_av import PyAVDecoder
from deltactl.ingest.decode_dali import DaliDecoder
from deltactl.ingest.timestamps import Video

DecoderChoice = Literal["auto", "dali", "pyav"]


@runtime_checkable
class Decoder(Protocol):
    """Turns frame numbers into pictures."""

    name: str
    """What clips record as their decoder."""

    def frames(self, video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Yield each wanted frame (distinct, sorted numbers) once, with its number; SourceError where one cannot be."""
        ...


class Decoders:
    """The decoders of one process; those that are costly to load are loaded when first needed."""

    def __init__(self, choice: DecoderChoice, *, device_id: int = 0, gpus: int = 0) -> None:
        self.pyav = PyAVDecoder()
        self.dali = DaliDecoder("gpu" if gpus else "cpu", device_id % max(1, gpus)) if choice == "dali" else None

    def candidates(self, video: Video) -> list[Decoder]:
        """Return the decoders to try on this video, best first."""
        if self.dali is not None and self.dali.refusal(video) is None:
            return [self.dali, self.pyav]
        return [self.pyav]
