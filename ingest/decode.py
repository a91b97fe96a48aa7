"""One interface for all decoders, and the choice of one for each file.

In come an open `Video` and the numbers of the wanted frames; out come uint8 RGB frames. PyAV decodes everything on
the CPU; DALI decodes what it knows on a GPU. `auto` takes DALI where a GPU and a codec it knows are there, PyAV
otherwise, file by file; what DALI cannot decode after all, PyAV tries. Decoding on a GPU has been tested on the same
graph on a CPU only.
"""

from __future__ import annotations

import importlib.util
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
        self._choice = choice
        self._pyav = PyAVDecoder()
        self._dali = _dali(choice, device_id, gpus)

    def candidates(self, video: Video, *, gpu: bool = True) -> list[Decoder]:
        """Return the decoders to try on this video, best first; `gpu` off leaves out DALI unless it was asked for."""
        if self._choice == "dali":
            assert self._dali is not None
            return [self._dali]
        if gpu and self._dali is not None and self._dali.refusal(video) is None:
            return [self._dali, self._pyav]
        return [self._pyav]


def _dali(choice: DecoderChoice, device_id: int, gpus: int) -> DaliDecoder | None:
    if choice == "pyav" or (choice == "auto" and not (gpus and _dali_is_installed())):
        return None
    return DaliDecoder("gpu" if gpus else "cpu", device_id % max(1, gpus))


def _dali_is_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
