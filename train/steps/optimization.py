"""The optimizer of every network: AdamW, decay on the weights of linear and convolution layers only, linear warm-up.

Learning rate and decay are set at every step from the settings and the step's number; nothing of them is restored from
a checkpoint. So a run that goes on with other settings (a cool-down) follows the new ones at once, and there is no
state of a scheduler to save.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW

DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class OptimizerConfig:
    """What the optimizer does at every step."""

    lr: float
    """Learning rate after the warm-up."""
    weight_decay: float
    warmup_steps: int
    """Steps over which the learning rate rises in a straight line from 0."""
    cooldown_steps: int = 0
    """Last steps, over which it falls to 0 in a straight line."""
    steps: int | None = None
    """At which the run ends; needed for a cool-down only."""
    fused: bool = False
    """Whether AdamW is one kernel, which is for CUDA."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; the first step of a warm-up has 0."""
        risen = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        if not self.cooldown_steps:
            return self.lr * risen
        assert self.steps is not None
        return self.lr * min(risen, max(0.0, (self.steps - step) / self.cooldown_steps))


def build_optimizer(network: nn.Module, settings: OptimizerConfig) -> AdamW:
    """Return AdamW over the network's trainable parameters in two groups: decayed, and not.

    Order and number of the groups are always the same, as restoring their states asks for.
    """
    decayed, plain = decayed_parameters(network)
    groups = [
        {"params": [parameter for _, parameter in decayed], "weight_decay": settings.weight_decay, "decayed": True},
        {"params": [parameter for _, parameter in plain], "weight_decay": 0.0, "decayed": False},
    ]
    return AdamW([group for group in groups if group["params"]], lr=settings.lr_at(0), fused=settings.fused)


def set_step(optimizer: torch.optim.Optimizer, settings: OptimizerConfig, step: int) -> None:
    """Give every group the learning rate of this step and the decay of these settings."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr_at(step)
        group["weight_decay"] = settings.weight_decay if group["decayed"] else 0.0


def decayed_parameters(
    network: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Return names and trainable parameters: weights of linear and convolution layers, and all others."""
    weights = {id(module.weight) for module in network.modules() if isinstance(module, DECAYED)}
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    return (
        [(name, parameter) for name, parameter in named if id(parameter) in weights],
        [(name, parameter) for name, parameter in named if id(parameter) not in weights],
    )


def set_layer_scales(network: nn.Module, value: float) -> None:
    """Start all layer scales of a new network at `value`."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".lambda1"):
                parameter.fill_(value)
