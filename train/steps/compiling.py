"""What of a run goes through torch.compile, and how it stays right inside DistributedDataParallel.

Compiled inside DDP, a network's graph is cut at DDP's buckets of gradients: their exchange begins while others are
still computed. A graph that switches gradients off for a part of itself, as the search of best-of-many does, loses
gradients where such a cut falls between the parts, without an error; those networks are compiled whole. Their gradients
are then exchanged at the end of the backward pass: 340 MB, 2 to 4 ms between GPUs of one machine.
"""

from __future__ import annotations

import contextlib
import logging

import torch

from deltactl.compilation import compile_module
from deltactl.train.steps.choices import Choices
from deltactl.train.steps.modules import TrainingModule

log = logging.getLogger(__name__)


def prepare(
    module: TrainingModule, choices: Choices, *, device_type: str, processes: int, accumulate: int
) -> contextlib.AbstractContextManager[object]:
    """Have a module's networks compiled at their first call, where that was chosen; return the context to train in."""
    graphs = choices.graphs and processes == 1 and accumulate == 1
    if not choices.compiled or not compile_module(module.network, device_type, "training", graphs=graphs):
        return contextlib.nullcontext()
    if choices.graphs and not graphs:
        log.warning(
            "compile=graphs is for one GPU whose batch is a whole step; here %d processes add up %d batches each, so "
            "the step is compiled without",
            processes,
            accumulate,
        )
    module.frozen.compiled = True
    module.graphs = graphs
    return inside_ddp(type(module))


def inside_ddp(kind: type[TrainingModule]) -> contextlib.AbstractContextManager[object]:
    """Return the context in which DDP cuts no graph, where a module of this kind has a search."""
    return torch._dynamo.config.patch(optimize_ddp=False) if kind.has_search else contextlib.nullcontext()
