"""Weights as files and as one hash: safetensors opened with clear errors, and tensors told apart by content.

The hash depends on what is computed with (names, dtypes, shapes, bytes), not on the file around it: the same weights
have the same hash in a state dict, a training checkpoint or safetensors, at any path. It costs one pass over the bytes,
about 1 GB a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deltactl.artifacts import canonical_json
from deltactl.errors import CheckpointError
from deltactl.reading import UnreadableError, open_regular, reason_of


def weights_hash(settings: Any, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256, in hexadecimal, of settings (JSON) and named tensors, whatever their order.

    It is the hash of the canonical JSON `{"settings": …, "weights": {NAME: [DTYPE, SHAPE, SHA256 OF THE BYTES]}}`.
    """
    weights = {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), _bytes_hash(tensor)]
        for name, tensor in tensors
    }
    return hashlib.sha256(canonical_json({"settings": settings, "weights": weights})).hexdigest()


def _bytes_hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


@contextlib.contextmanager
def open_safetensors(path: Path, source: str | None = None) -> Iterator[Any]:
    """Open a safetensors file for reading (`safetensors.safe_open`).

    `source` is what messages call it, where that is not its path.

    Raises:
        CheckpointError: it is no safetensors file, or only a part of one.
    """
    try:
        with open_regular(path) as held, safe_open(_utf8_path(path, held.fileno()), framework="pt") as file:
            yield file
    except (UnreadableError, IsADirectoryError) as error:
        raise CheckpointError(f"{source or path} {reason_of(error)}; expected safetensors") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{source or path} ({path.stat().st_size} bytes) is not whole safetensors: {error}; fetch or write it again"
        ) from error


def _utf8_path(path: Path, descriptor: int) -> Path | str:
    """Return a path to an open file that safetensors takes: it refuses names that are not UTF-8."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return f"/proc/self/fd/{descriptor}"
    return path


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a safetensors file, in the order of its names."""
    with open_safetensors(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)
