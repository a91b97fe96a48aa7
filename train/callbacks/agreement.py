"""One answer for all processes of a run: what one of them alone has seen must not make it act alone.

A save, say, is done by all processes together; one that begins it by its own clock would wait for the others for ever.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch

ASK_EVERY = 10
"""Steps between such questions, since the answer of several GPUs waits for all of them."""


def is_asking_step(trainer: pl.Trainer) -> bool:
    """Whether questions are asked after this step; after every one where there is a single process."""
    return trainer.world_size == 1 or trainer.global_step % ASK_EVERY == 0


def any_process(trainer: pl.Trainer, module: pl.LightningModule, flag: bool) -> bool:
    """Return whether any process says yes; every process must ask, after the same step."""
    return flag if trainer.world_size == 1 else summed(trainer, module, float(flag))[0] > 0


def summed(trainer: pl.Trainer, module: pl.LightningModule, *numbers: float) -> list[float]:
    """Return the sums of numbers over all processes, each of which must call it; whole ones are exact."""
    mine = torch.tensor(numbers, device=module.device)
    found: list[float] = trainer.strategy.reduce(mine, reduce_op="sum").tolist()
    return found
