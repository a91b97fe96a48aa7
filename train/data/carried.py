"""Columns of batches: what samples carry besides features, tokens or frames, as tensors.

Takes the numbers that stores and shards have for clips, returns those of the samples: of pairs their two frames, of a
mixture what all of its sets have alike. Texts stay where they are. Rows are chosen and joined by NumPy, which knows
unsigned numbers of every size; so columns are in main memory until their batch moves.

Shapes: B batch · T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from deltactl.ingest.shards.columns import Columns, is_of_clip, number_columns


def of_pairs(
    columns: Mapping[str, Shaped[Tensor, "..."]], index: Int64[Tensor, "B 2"]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the columns of pairs of frames, which `index` names, from those of their clips."""
    rows, frames = np.arange(len(index))[:, None], index.numpy()
    return {
        name: values if is_of_clip(name) else torch.from_numpy(values.numpy()[rows, frames])
        for name, values in columns.items()
    }


def of_samples(samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the columns of a batch from those of each of its samples."""
    names = samples[0] if samples else ()
    return {name: torch.from_numpy(np.stack([each[name] for each in samples])) for name in names}


def alike(sets: Sequence[Columns]) -> tuple[str, ...]:
    """Return the names of the columns of numbers that several sets have in one type and shape, sorted."""
    common = set(number_columns(sets[0])).intersection(*(number_columns(each) for each in sets[1:]))
    return tuple(sorted(column.name for column in common))


def joined(
    parts: Sequence[Mapping[str, Shaped[Tensor, "..."]]], names: Collection[str]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the columns of these names of several parts of a batch, one after the other."""
    return {name: torch.from_numpy(np.concatenate([part[name].numpy() for part in parts])) for name in names}
