"""What of a run goes through torch.compile, and how it stays right inside DistributedDataParallel.

Compiled inside DDP, a network's graph is cut at DDP's buckets of gradients, so that their exchange begins while others
are still computed. A graph that switches gradients off for a part of itself, as the search of best-of-many does, loses
gradients where such a cut falls between the parts, without an error; those networks are compiled whole. Their gradients
are then exchanged at the end of the backward pass: 340 MB, 2 to 4 ms between GPUs of one machine.
"""

from __future__ import annotations

import contextlib
import logging

import torch

from deltactl.compilation import compile_fault, warn_plain
from deltactl.train.choices import Choices
from deltactl.train.modules import TrainingModule

log = logging.getLogger(__name__)


def prepare(
    module: TrainingModule, choices: Choices, *, device_type: str, processes: int, accumulate: int
) -> contextlib.AbstractContextManager[object]:
    """Have a module's networks compiled at their first call, where that was chosen; return the context to train in."""
    if not choices.compiled:
        return contextlib.nullcontext()
    if fault := compile_fault(device_type):
        warn_plain("training", fault)
        return contextlib.nullcontext()
    graphs = choices.graphs
    if graphs and (processes > 1 or accumulate > 1):
        log.warning(
            "compile=graphs is for one GPU whose batch is a whole step; here %d processes add up %d batches each, so "
            "the step is compiled without",
            processes,
            accumulate,
        )
        graphs = False
    module.frozen.compiled = True
    module.graphs = graphs
    module.network.compile(mode="reduce-overhead" if graphs else None)
    dynamo = torch._dynamo.config  # type: ignore[attr-defined]  # loaded with the compiler
    return dynamo.patch(optimize_ddp=False) if module.has_search else contextlib.nullcontext()
