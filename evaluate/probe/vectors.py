"""One vector for each clip under each view: what a linear probe sees of features or tokens.

Takes an open store, returns a matrix in a file. Of each frame there is one vector first: of features the mean over its
patches, of tokens those of the frame side by side. What becomes of a clip's frames is its *pooling* (`POOLINGS`). All
sums are in float64, so that a vector does not depend on which clips are read together; it is kept as float32.

The matrix is filled block by block. How far is noted beside it, with a checksum of each block, so that a run that was
stopped goes on from there. Cost: one pass over the bytes of the store; memory holds two blocks.

Shapes: N samples · C clips of a block · T frames · P patches · K tokens of a frame · D width · V = D or K · D · L width
of a clip's vector.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import ClipStore
from deltactl.featurize.store.scan import blocks_of, not_finite
from deltactl.locations import storage_errors
from deltactl.progress import Progress

# --- poolings --------------------------------------------------------------------------------------------------------


def mean(frames: Float64[Tensor, "C T V"]) -> Float64[Tensor, "C L"]:
    """Return the mean over frames; L is V."""
    return frames.mean(1)


def first_and_rest(frames: Float64[Tensor, "C T V"]) -> Float64[Tensor, "C L"]:
    """Return the first frame, and the mean of the others; L is 2 V, or V of clips of one frame."""
    return frames[:, 0] if frames.shape[1] == 1 else torch.cat((frames[:, 0], frames[:, 1:].mean(1)), 1)


def moments(frames: Float64[Tensor, "C T V"]) -> Float64[Tensor, "C L"]:
    """Return the mean and the standard deviation over frames; L is 2 V, or V of clips of one frame."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    deviation, middle = torch.std_mean(frames, 1, correction=0)
    return torch.cat((middle, deviation), 1)


def side_by_side(frames: Float64[Tensor, "C T V"]) -> Float64[Tensor, "C L"]:
    """Return all frames, one after the other; L is T · V."""
    return frames.flatten(1)


POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": mean,
    "first-rest": first_and_rest,
    "moments": moments,
    "frames": side_by_side,
}
"""What becomes of a clip's frames, by name."""
DEFAULT_POOLING: Mapping[str, str] = {"features": "mean", "tokens": "first-rest"}
"""By what a store holds. A clip's first token is the change from the black frame and says what is seen, the others say
what changes: their mean alone would mix both."""
OF_ALL_FRAMES = "frames"
"""The pooling whose vectors have another width where clips have another length."""


def vectors_of_clips(clips: Float[Tensor, "C T I D"], pooling: str, kind: str) -> Float32[np.ndarray, "C L"]:
    """Return the vectors of features (C, T, P, D) or of tokens (C, T, K, D), as `kind` says."""
    # Features a clip at a time, which fits the caches: eight times as fast as all at once.
    of_features = kind == "features"
    frames = torch.stack([clip.double().mean(1) for clip in clips]) if of_features else clips.double().flatten(2)
    return np.ascontiguousarray(POOLINGS[pooling](frames).float().numpy())


def width_of(store: ClipStore, pooling: str) -> int:
    """Return the width of the vectors of a store's clips, `L`."""
    items = 1 if store.kind == "features" else store.frame_shape[0]
    return int(POOLINGS[pooling](torch.zeros(1, store.frames, items * store.dim, dtype=torch.float64)).shape[1])


# --- reading ---------------------------------------------------------------------------------------------------------


def vectors_of(
    store: ClipStore, samples: Int64[np.ndarray, " N"], pooling: str, place: Path, block: int | None = None
) -> Float32[np.ndarray, "N L"]:
    """Return the vectors of some samples of a store, as a file that is mapped into memory.

    `place` names two files, `PLACE.npy` and `PLACE.blocks`; what they hold of an earlier call with the same samples and
    pooling is taken over. `block` is the number of clips that are read at once, by default 64 MiB of them.

    Raises:
        ConfigError: there is no such pooling.
        ArtifactError: a clip holds numbers that are not finite; the message names it.
        DamagedError: a clip's bytes are damaged.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"--pool is {pooling!r}; expected {', '.join(POOLINGS)}")
    with storage_errors(place, "write"):
        matrix, notes = _matrix(place, (len(samples), width_of(store, pooling))), place.with_suffix(".blocks")
        done = _filled(matrix, notes)
        with Progress(len(samples), label="read") as progress:
            progress.advance(done)
            for start, clips in blocks_of(store, block, samples[done:].tolist()):
                first, end = done + start, done + start + len(clips)
                vectors = vectors_of_clips(clips, pooling, store.kind)
                if not (whole := np.isfinite(vectors).all(1)).all():
                    raise not_finite(store, int(samples[first + int(whole.argmin())]))
                matrix[first:end] = vectors
                matrix.flush()
                with notes.open("a") as file:
                    file.write(f"{first} {end} {zlib.crc32(vectors.tobytes())}\n")
                progress.advance(len(clips))
    return matrix


def _matrix(place: Path, shape: tuple[int, int]) -> np.memmap:
    """Return the matrix that an earlier call began, or a new one."""
    path = place.with_suffix(".npy")
    with contextlib.suppress(FileNotFoundError, ValueError):
        matrix = np.lib.format.open_memmap(path, "r+")
        if matrix.shape == shape and matrix.dtype == np.float32:
            return matrix
    place.with_suffix(".blocks").unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def _filled(matrix: np.memmap, notes: Path) -> int:
    """Return how many rows are as they were written, from the first on; what is noted after them is forgotten."""
    done, kept = 0, ""
    with contextlib.suppress(FileNotFoundError, ValueError):
        for line in notes.read_text().splitlines(keepends=True):
            first, end, checksum = map(int, line.split())
            block = matrix[first:end]
            if first != done or len(block) != end - first or zlib.crc32(block.tobytes()) != checksum:
                break
            done, kept = end, kept + line
    notes.write_text(kept)
    return done
