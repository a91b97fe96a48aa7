"""What one process of an evaluation does: load the networks once, then turn ranges of clips into tallies.

Features are read (or computed) once and serve every row and horizon. Networks run in the precision that was asked for,
heads, losses and metrics in float32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from deltactl.artifacts import Quarantined
from deltactl.configs.evaluate import CLIP_FRAMES, EvaluateConfig
from deltactl.devices import ieee_convolutions
from deltactl.evaluate.clips import ClipSource, ClipTask, CropBatch
from deltactl.evaluate.memory import AtOnce
from deltactl.evaluate.predictions import Batch, Prediction
from deltactl.evaluate.rows import Models, predictions
from deltactl.evaluate.tally import Tally, score_prediction
from deltactl.tasks.known import task_of

# The samples of one horizon are kept together, since every one is compared with every other; this share of a GPU's
# memory may hold those of a batch.
_SHARE_FOR_SAMPLES = 0.03
_MOST_CROPS = 8


@dataclass(frozen=True)
class Equipment:
    """What a process works with, once loaded."""

    source: ClipSource
    models: Models
    head: nn.Module | None
    black: torch.Tensor
    grid: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    """bfloat16 or float32, of the networks' matrix products."""
    crops: AtOnce
    """Crops that go through the networks at once."""
    samples: AtOnce
    """Samples that roll out at once."""


@dataclass(frozen=True)
class TaskResult:
    """What came of the clips of one task."""

    tally: Tally
    quarantined: tuple[Quarantined, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """By part: clips (reading, or streaming), networks, metrics."""


@dataclass
class EvaluateWorker:
    """The engine's worker. `equip` is picklable and loads everything onto the device of a process."""

    config: EvaluateConfig
    equip: Callable[[int], Equipment]
    processes: int = 1
    _equipment: Equipment | None = None

    def start(self, slot: int) -> None:
        """Load the networks."""
        if self.processes > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.processes))
        self._equipment = self.equip(slot)

    def run(self, task: ClipTask) -> TaskResult:
        """Evaluate the clips of a task."""
        assert self._equipment is not None, "start comes first"
        return evaluate_task(self._equipment, task, self.config)


def evaluate_task(equipment: Equipment, task: ClipTask, config: EvaluateConfig) -> TaskResult:
    """Return the tally of the clips of one task; torch's error where the memory is full even for one crop."""
    tally = Tally()
    seconds = {"clips": 0.0, "networks": 0.0, "metrics": 0.0}
    keys: set[str] = set()
    began = time.perf_counter()
    for crops in equipment.source.batches(task, equipment.crops.most):
        seconds["clips"] += time.perf_counter() - began

        def evaluate(start: int, stop: int, crops: CropBatch = crops) -> Tally:
            return _evaluate_batch(equipment, crops.part(start, stop), config, seconds)

        for part in equipment.crops.pieces(len(crops.crops), evaluate):
            tally.add(part)
        keys |= {crop.clip.key for crop in crops.crops}
        began = time.perf_counter()
    seconds["clips"] += time.perf_counter() - began
    tally.clips = len(keys)
    quarantined = tuple(equipment.source.quarantined)
    equipment.source.quarantined.clear()
    return TaskResult(tally, quarantined, seconds)


def crops_at_once(device: torch.device, black: torch.Tensor, config: EvaluateConfig) -> AtOnce:
    """Return how many crops to take at once: one on a CPU, which gains nothing by more; on a GPU by its memory."""
    most = 1
    if config.batch_size is not None:
        most = config.batch_size
    elif device.type == "cuda":
        sample = black.numel() * 4 * (CLIP_FRAMES - config.context)
        total = torch.cuda.get_device_properties(device).total_memory
        most = min(_MOST_CROPS, int(_SHARE_FOR_SAMPLES * total) // (sample * config.samples))
    return AtOnce("crops", most, device)


def batch_of(equipment: Equipment, crops: CropBatch) -> Batch:
    """Return crops as the networks take them, on their device."""
    device = equipment.device
    return Batch(
        keys=tuple(crop.clip.key for crop in crops.crops),
        views=tuple(crop.view for crop in crops.crops),
        features=crops.features.to(device).float(),
        times=torch.tensor([crop.clip.times for crop in crops.crops], dtype=torch.float64, device=device),
        black=equipment.black,
        grid=equipment.grid,
    )


def _evaluate_batch(equipment: Equipment, crops: CropBatch, config: EvaluateConfig, seconds: dict[str, float]) -> Tally:
    """Return the tally of some crops; their clips are not counted."""
    device, tally, task = equipment.device, Tally(), task_of(config.dataset)
    batch = batch_of(equipment, crops)
    targets: dict[tuple[int, int], torch.Tensor] = {}
    began = time.perf_counter()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=equipment.dtype == torch.bfloat16)
    with torch.inference_mode():
        made = predictions(batch, equipment.models, config, equipment.samples)
        while True:
            with autocast:
                prediction = next(made, None)
            if prediction is None:
                break
            seconds["networks"] += time.perf_counter() - began
            began = time.perf_counter()
            tally.count(prediction, crops.crops)
            if isinstance(prediction, Prediction) and equipment.head is not None:
                with ieee_convolutions(device):
                    score_prediction(tally, prediction, task, equipment.head, crops.crops, targets, equipment.grid)
            seconds["metrics"] += time.perf_counter() - began
            began = time.perf_counter()
    seconds["networks"] += time.perf_counter() - began
    return tally
