"""What the settings that say `auto` become on the devices that train.

Takes the settings and whether GPUs train, returns one record that the whole run follows. Nothing here looks at this
machine: a CPU can be asked what a GPU would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.devices import DTYPES


@dataclass(frozen=True)
class Choices:
    """How a run computes."""

    precision: Literal["bf16-mixed", "16-mixed", "32-true"]
    """Lightning's precision of what trains."""
    compiled: bool
    """Whether the networks run through torch.compile, the frozen ones of live training too."""
    graphs: bool
    """Whether a compiled step is recorded once as a CUDA graph and then replayed."""
    fused: bool
    """Whether AdamW is one kernel. Not in float16: its scaled gradients can be clipped only before such a kernel."""
    frozen: torch.dtype
    """Type of the frozen networks' matrix products."""
    search: torch.dtype | None
    """Type of the products in the search of best-of-many; None is that of the step around it."""


def choose(config: TrainingConfig, *, on_gpu: bool) -> Choices:
    """Return what the settings mean on GPUs, or on a CPU."""
    automatic: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if on_gpu else "32-true"
    precision = automatic if config.precision == "auto" else config.precision
    # Like featurize's, unless float32 is asked for.
    frozen = torch.bfloat16 if on_gpu and precision != "32-true" else torch.float32
    search = config.search_precision if isinstance(config, WorldConfig) else "auto"
    return Choices(
        precision=precision,
        compiled=on_gpu if config.compile == "auto" else bool(config.compile),
        graphs=on_gpu and config.compile == "graphs",
        fused=on_gpu and precision != "16-mixed",
        frozen=DTYPES.get(config.frozen_precision, frozen),
        search=DTYPES.get(search),
    )
