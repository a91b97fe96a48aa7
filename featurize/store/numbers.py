"""Between the numbers of a store and their bits on the disk: float16 as it is, bfloat16 as uint16 of the same bits.

NumPy and Zarr have no bfloat16; torch has, and takes such bits for what they are without a copy.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from deltactl.featurize.store.layout import StoreDtype


def torch_dtype(name: StoreDtype) -> torch.dtype:
    """Return the type of a store's numbers as torch has it."""
    return torch.float16 if name == "float16" else torch.bfloat16


def rounded(values: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Return features or tokens as they come back from a store of float16; what is beyond its range, as it is.

    (Of that a store is of bfloat16, which keeps it to three digits.)
    """
    halves = values.half().float()
    return torch.where(halves.isinf(), values.float(), halves)


def stored_numbers(values: Float[Tensor, "..."]) -> Shaped[np.ndarray, "..."]:
    """Return a float16 or bfloat16 tensor in main memory as the array that is stored; both share the memory."""
    return (values if values.dtype == torch.float16 else values.view(torch.uint16)).numpy()


def real_numbers(stored: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return what stored numbers stand for: float16 as it is, the bits of bfloat16 as the same numbers in float32."""
    return stored if stored.dtype == np.float16 else (stored.astype(np.uint32) << 16).view(np.float32)
