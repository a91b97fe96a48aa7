"""Evaluates a network while it trains, after each validation: metrics and pictures of the evaluation sets.

A Lightning callback, which the command line hands to the training. The first process evaluates a copy of the network as
`deltactl eval` would, while the others wait; the copy takes as much of the device's memory as the network. Reports go
to RUN/evaluations/STEP-SET, their numbers to the run's figures. The mean loss over the sets decides which checkpoint is
the best, as in the paper.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import EVALUATIONS
from deltactl.configs.world import WorldConfig
from deltactl.datasets.known import labelled_set
from deltactl.errors import CheckpointError, ConfigError
from deltactl.evaluate.run import run as run_evaluate
from deltactl.locations import Location
from deltactl.removal import agree
from deltactl.train.callbacks.metrics import Metrics
from deltactl.train.networks.known_kinds import kind_of
from deltactl.train.steps.modules import TrainingModule

log = logging.getLogger(__name__)

IN_TRAINING = "the network in training"
"""Stands for the place of a checkpoint in the config of such an evaluation."""
TRAINED = {"tokenizer": ("deltatok", None), "world": ("deltaworld", "mean"), "dinoworld": ("dinoworld", None)}
"""The rows, method and choice of sample, whose losses validate each kind of network."""


def callbacks_for(config: TokenizerConfig | WorldConfig) -> list[pl.Callback]:
    """Return the callback that the config asks for, if any.

    Raises:
        ConfigError: the evaluation lacks a network or a file.
    """
    if not config.evaluate:
        return []
    if isinstance(config, WorldConfig) and config.network.kind == "deltaworld" and config.tokenizer is None:
        raise ConfigError("evaluate needs the frozen tokenizer, to decode what is predicted: --tokenizer CKPT")
    if "kitti" in config.evaluate and config.kitti_split_file is None:
        raise ConfigError("evaluate on kitti needs the Eigen split file: --set kitti_split_file=FILE")
    return [EvaluateDuringTraining(config)]


class EvaluateDuringTraining(pl.Callback):
    """Evaluates the network on the sets that the config names, whenever it is validated."""

    def __init__(self, config: TokenizerConfig | WorldConfig) -> None:
        self._config = config

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate in the first process, and give every process the figures."""
        assert isinstance(pl_module, TrainingModule)
        metrics = next(each for each in _callbacks(trainer) if isinstance(each, Metrics))
        figures = self._evaluate(trainer.global_step, pl_module, metrics.run) if trainer.is_global_zero else {}
        metrics.extra = trainer.strategy.broadcast(figures)

    def _evaluate(self, step: int, module: TrainingModule, run: Location) -> dict[str, float]:
        folder = run / EVALUATIONS
        kind = kind_of(module.network).name
        networks: dict[str, nn.Module] = {kind: copy_of(module.network)}
        figures: dict[str, float] = {}
        losses = []
        for dataset in self._config.evaluate:
            name = labelled_set(dataset).name
            config = self._evaluation(dataset, kind, str(folder / f"{step:07d}-{name}"), module)
            # A report of this step may be there: of a run that was stopped before its next checkpoint.
            rows = run_evaluate(config, log.info, agree, networks=networks).metrics["rows"]
            figures.update(named(name, rows))
            losses.append(validation_loss(rows, *TRAINED[kind]))
        return {**figures, "evaluation/loss": mean(losses)}

    def _evaluation(self, dataset: Any, kind: str, out: str, module: TrainingModule) -> EvaluateConfig:
        tokenizer = self._config.tokenizer if isinstance(self._config, WorldConfig) else None
        networks = {"tokenizer": tokenizer, kind: IN_TRAINING}
        values = {
            "dataset": dataset,
            "split_file": self._config.kitti_split_file if dataset == "kitti" else None,
            "backbone": self._config.backbone,
            "size": self._config.size,
            "limit": self._config.evaluate_clips,
            "extras": False,
            "out": out,
            "device": str(module.device),
            "workers": 0,
        }
        return EvaluateConfig.model_validate({**values, **networks})


def named(dataset: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last step of each horizon as figures: `evaluation/vspw/deltaworld-mean/3/miou` and `…/loss`."""
    figures = {}
    for row in rows:
        if row["step"] != row["horizon"]:
            continue
        method = f"{row['method']}-{row['select']}" if row["select"] else row["method"]
        name = f"evaluation/{dataset}/{method}/{row['horizon']}"
        figures[f"{name}/loss"] = float(row["loss"])
        if row["value"] is not None:
            figures[f"{name}/{row['metric']}"] = float(row["value"])
    return figures


def validation_loss(rows: Sequence[Mapping[str, Any]], method: str, select: str | None) -> float:
    """Return a method's loss on one set: the mean over horizons of the mean over their steps."""
    by_horizon: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["method"] == method and row["select"] == select:
            by_horizon[row["horizon"]].append(float(row["loss"]))
    return mean(mean(losses) for losses in by_horizon.values())


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def copy_of(network: nn.Module) -> nn.Module:
    """Return a copy of the network as it is now, in eval mode; training goes on with the other.

    Raises:
        CheckpointError: a weight is not finite.
    """
    for name, tensor in network.state_dict().items():
        if tensor.dtype.is_floating_point and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise CheckpointError(f"{IN_TRAINING}: {name} holds NaN or infinite values: the training has diverged")
    # Parameters that ask for gradients, as those of a checkpoint do: without, CPU kernels round differently.
    return copy.deepcopy(network).float().eval()
