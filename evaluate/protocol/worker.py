"""What one process of an evaluation does: load the networks once, then turn ranges of clips into tallies.

Features are read (or computed) once and serve every row and horizon. Networks run in the precision that was asked for,
heads, losses and metrics in float32. A backbone is loaded only where clips are streamed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deltactl.artifacts import Quarantined
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import planned_set
from deltactl.devices import device_of, dtype_of, ieee_convolutions
from deltactl.evaluate.clips.cache import Cache
from deltactl.evaluate.clips.sources import CachedClips, ClipSource, ClipTask, CropBatch, StreamedClips
from deltactl.evaluate.protocol.futures import samples_at_once
from deltactl.evaluate.protocol.memory import AtOnce
from deltactl.evaluate.protocol.networks import Networks, read_networks
from deltactl.evaluate.protocol.predictions import Batch, Prediction
from deltactl.evaluate.protocol.rows import Models, predictions
from deltactl.evaluate.protocol.tally import Tally, score_prediction
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.tasks.known import task_of

# The samples of one horizon are kept together, since every one is compared with every other; this share of a GPU's
# memory may hold those of a batch.
_SHARE_FOR_SAMPLES = 0.03
_MOST_CROPS = 8


@dataclass(frozen=True)
class Loaded:
    """What a process works with."""

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


@dataclass
class Loader:
    """Loads what a process needs onto its device; picklable, leaving behind what is loaded already."""

    config: EvaluateConfig
    cache: Cache
    cached: bool
    """Whether the clips come from the cache; else they are streamed."""
    dim: int
    """Width of the features."""
    networks: Networks | None = None
    """Networks of this process, on any device; None to load them from their checkpoints."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "networks": None}

    def load(self, slot: int) -> Loaded:
        """Return what worker number `slot` works with."""
        config = self.config
        device = device_of(config.device, slot)
        dtype = dtype_of(config.precision, device)
        dataset = planned_set(config.dataset, self.cache.plan.identity)
        source: ClipSource
        if self.cached:
            shards, store = self.cache.open()
            source, black, grid = (
                CachedClips(shards, store, config.size, dataset, config.frames),
                store.black,
                store.grid,
            )
        else:
            backbone = Backbone.load(config.backbone, device, dtype)
            self.cache.plan.maker.start(slot)
            source = StreamedClips(self.cache.plan, backbone, config.size, dataset, config.frames, config.dtype)
            black, grid = backbone.black_features(*config.size.pair), backbone.grid(*config.size.pair)
        networks = self.networks or Networks.load(read_networks(config, self.dim))
        networks.to(device)
        black = black.to(device)
        crops = crops_at_once(device, black, config)
        tokenizer = networks.models.tokenizer
        count = 1 if tokenizer is None else tokenizer.config.tokens_per_frame
        patches, dim = black.shape
        samples = samples_at_once(device, patches, dim, count)
        return Loaded(source, networks.models, networks.head, black, grid, device, dtype, crops, samples)


@dataclass(frozen=True)
class TaskResult:
    """What came of the clips of one task."""

    task: ClipTask
    tally: Tally
    quarantined: tuple[Quarantined, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """By part: clips (reading, or streaming), networks, metrics."""

    @property
    def name(self) -> str:
        """That of the task."""
        return self.task.name


class TaskEvaluator:
    """The maker of an evaluation (`stages.Maker`): turns tasks into tallies, in one process."""

    def __init__(self, loader: Loader, processes: int) -> None:
        """`processes`: how many share the machine; 0 for this one alone."""
        self.seconds: dict[str, float] = {}
        """How long each part of the work was busy in the last `make`."""
        self._loader = loader
        self._processes = processes
        self._loaded: Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def start(self, slot: int) -> None:
        """Load what all tasks need."""
        if self._processes > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self._processes))
        self._loaded = self._loaded or self._loader.load(slot)

    @property
    def loaded(self) -> Loaded:
        """What `start` has loaded."""
        assert self._loaded is not None, "start comes first"
        return self._loaded

    def make(self, units: Iterable[ClipTask], advance: Callable[[int], None]) -> Iterator[TaskResult]:
        """Yield what comes of each task, in order."""
        self.seconds = {}
        for task in units:
            result = evaluate_task(self.loaded, task, self._loader.config)
            for part, seconds in result.seconds.items():
                self.seconds[part] = self.seconds.get(part, 0.0) + seconds
            advance(task.clips)
            yield result


def evaluate_task(loaded: Loaded, task: ClipTask, config: EvaluateConfig) -> TaskResult:
    """Return the tally of the clips of one task; torch's error where the memory is full even for one crop."""
    tally = Tally()
    seconds = {"clips": 0.0, "networks": 0.0, "metrics": 0.0}
    keys: set[str] = set()
    began = time.perf_counter()
    for crops in loaded.source.batches(task, loaded.crops.most):
        seconds["clips"] += time.perf_counter() - began

        def evaluate(start: int, stop: int, crops: CropBatch = crops) -> Tally:
            return _evaluate_batch(loaded, crops.part(start, stop), config, seconds)

        for part in loaded.crops.pieces(len(crops.crops), evaluate):
            tally.add(part)
        keys |= {crop.clip.key for crop in crops.crops}
        began = time.perf_counter()
    seconds["clips"] += time.perf_counter() - began
    tally.clips = len(keys)
    quarantined = tuple(loaded.source.quarantined)
    loaded.source.quarantined.clear()
    return TaskResult(task, tally, quarantined, seconds)


def crops_at_once(device: torch.device, black: torch.Tensor, config: EvaluateConfig) -> AtOnce:
    """Return how many crops to take at once: one on a CPU, which gains nothing by more; on a GPU by its memory."""
    most = 1
    if config.batch_size is not None:
        most = config.batch_size
    elif device.type == "cuda":
        sample = black.numel() * 4 * (config.frames - config.context)
        total = torch.cuda.get_device_properties(device).total_memory
        most = min(_MOST_CROPS, int(_SHARE_FOR_SAMPLES * total) // (sample * config.samples))
    return AtOnce("crops", most, device)


def batch_of(loaded: Loaded, crops: CropBatch) -> Batch:
    """Return crops as the networks take them, on their device."""
    device = loaded.device
    return Batch(
        keys=tuple(crop.clip.key for crop in crops.crops),
        views=tuple(crop.view for crop in crops.crops),
        features=crops.features.to(device).float(),
        times=torch.tensor([crop.clip.times for crop in crops.crops], dtype=torch.float64, device=device),
        black=loaded.black,
        grid=loaded.grid,
    )


def _evaluate_batch(loaded: Loaded, crops: CropBatch, config: EvaluateConfig, seconds: dict[str, float]) -> Tally:
    """Return the tally of some crops; their clips are not counted."""
    device, tally, task = loaded.device, Tally(), task_of(config.dataset)
    batch = batch_of(loaded, crops)
    targets: dict[tuple[int, int], torch.Tensor] = {}
    tally.visit(crops.crops)
    began = time.perf_counter()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=loaded.dtype == torch.bfloat16)
    with torch.inference_mode():
        made = predictions(batch, loaded.models, config, loaded.samples)
        while True:
            with autocast:
                prediction = next(made, None)
            if prediction is None:
                break
            seconds["networks"] += time.perf_counter() - began
            began = time.perf_counter()
            tally.count(prediction, crops.crops)
            if isinstance(prediction, Prediction) and loaded.head is not None:
                with ieee_convolutions(device):
                    score_prediction(tally, prediction, task, loaded.head, crops.crops, targets, loaded.grid)
            seconds["metrics"] += time.perf_counter() - began
            began = time.perf_counter()
    seconds["networks"] += time.perf_counter() - began
    return tally
