"""Run the product's steps on tensors that say they lie on a GPU, and print as JSON what went off it.

    JAXTYPING_DISABLE=1 python tests/helpers/fake_cuda_runs.py [RUN…]

Needs a CUDA build of torch, though neither a card nor its driver; a program of its own, since it pretends both. The
tensors have no contents, so that the published sizes take seconds. Of each run: kernels of tensors on the GPU and the
gigabytes that they read and write, one by one as without torch.compile; copies between host and GPU and waits for the
GPU, by kind; and the devices and types of what comes out. Backward passes ask for the card, and are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from fake_cuda import H200, emptied, pretended_card
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from deltactl.configs.evaluate import CLIP_FRAMES, EvaluateConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.evaluate.protocol import predictions as evaluation
from deltactl.evaluate.protocol.rows import Models, predictions
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.pipeline.transfers import Arriving, Copies
from deltactl.train.data.batches import Batch
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld
from deltactl.train.networks.dinoworld import DinoWorld
from deltactl.train.steps.frozen import Frozen
from deltactl.train.steps.modules import DinoWorldModule, TokenizerModule, TrainingModule, WorldModule
from deltactl.train.steps.optimization import OptimizerConfig

WIDTH, SIZE, PATCHES, GRID, FRAMES = 768, 512, 1024, (32, 32), 8
VIEWS = {"view", "_unsafe_view", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "split"}
VIEWS |= {"unbind", "t", "alias", "detach", "as_strided", "split_with_sizes", "unfold", "diagonal", "empty"}
VIEWS |= {"empty_like", "empty_strided", "new_empty", "lift_fresh", "_reshape_alias", "new_empty_strided"}


class Traffic(TorchDispatchMode):
    """Counts kernels, their bytes, copies between host and GPU, and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes, self.crossings = 0, 0, Counter[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operator(*args, **(kwargs or {}))
        name = operator._schema.name.split("::")[1]
        given = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        if name in ("_local_scalar_dense", "nonzero"):
            self.crossings["wait"] += 1
        if name in ("_to_copy", "copy_", "lift_fresh_copy"):
            ends = [each.device.type for each in (given[-1 if name == "copy_" else 0], made[0])]
            if len(set(ends)) > 1:
                self.crossings[" to ".join(ends)] += 1
        if name not in VIEWS and any(each.device.type == "cuda" for each in given + made):
            self.kernels += 1
            self.bytes += sum(_bytes(each) for each in given + made)
        return found


def _bytes(tensor: Tensor) -> int:
    """Return the bytes that lie behind a tensor: an expanded one is read once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count * tensor.element_size()


class Setup:
    """The networks at their published sizes, and batches, all without contents."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        with self.mode:
            return torch.empty(shape, dtype=dtype, device="cuda")

    def network(self, network: Any) -> Any:
        return emptied(network, self.mode, "cuda")

    def tokenizer(self) -> DeltaTok:
        tokenizer: DeltaTok = self.network(DeltaTok().eval().requires_grad_(False))
        return tokenizer

    def backbone(self, dtype: torch.dtype = torch.bfloat16) -> Backbone:
        sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 12}
        with tempfile.TemporaryDirectory() as folder:
            DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_hidden_layers=2, num_register_tokens=4)).save_pretrained(folder)
            values = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255}
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values))
            backbone: Backbone = self.network(Backbone.load(folder, "cpu", dtype))
        return backbone

    def batch(self, kind: str, samples: int, frames: int = FRAMES) -> Batch:
        shape = {"frames": (3, SIZE, SIZE), "features": (PATCHES, WIDTH), "tokens": (1, WIDTH)}[kind]
        data = self.new(samples, frames, *shape, dtype=torch.uint8 if kind == "frames" else torch.float16)
        grid = GRID if kind == "features" else None
        return Batch(kind, data, self.new(samples, frames), np.arange(samples), grid=grid)


class DrawnElsewhere(WorldModule):
    """The world model's step with queries without contents: a generator on the GPU asks for the card."""

    def _draw(self, batch: Batch, purpose: str) -> Tensor:
        shape = (len(batch.data), batch.data.shape[1] - 1, self.queries, self.network.config.width)
        return torch.empty(shape, device="cuda")


SETTINGS = OptimizerConfig(lr=1e-4, warmup_steps=1, weight_decay=0.1)


def training(module: TrainingModule, batch: Batch) -> Iterator[Any]:
    """A training step that reports figures, up to the backward pass, then a validation step."""
    module.wants_figures = True
    yield module.loss(batch)
    yield module.figures
    with torch.no_grad():
        yield module.figures_of(batch)


def tokenizer_step(setup: Setup, kind: str) -> Iterator[Any]:
    frozen = Frozen(backbone=setup.backbone() if kind == "frames" else None, dtype=torch.bfloat16)
    module = TokenizerModule(setup.network(DeltaTok().train()), SETTINGS, frozen, 0)
    return training(module, setup.batch(kind, 16, frames=2))


def world_step(setup: Setup, kind: str) -> Iterator[Any]:
    backbone = setup.backbone() if kind == "frames" else None
    tokenizer = None if kind == "tokens" else setup.tokenizer()
    frozen = Frozen(backbone, tokenizer, None if kind == "tokens" else setup.new(PATCHES, WIDTH), torch.bfloat16)
    module = DrawnElsewhere(setup.network(DeltaWorld()), SETTINGS, frozen, 0, queries=256)
    return training(module, setup.batch(kind, 32 if kind == "tokens" else 2))


def baseline_step(setup: Setup) -> Iterator[Any]:
    module = DinoWorldModule(setup.network(DinoWorld()), SETTINGS, Frozen(), 0)
    return training(module, setup.batch("features", 2))


def featurize(setup: Setup, dtype: torch.dtype) -> Iterator[Any]:
    backbone = setup.backbone(dtype)
    with setup.mode:
        computer = Computer(backbone, FrameSize.of(SIZE), 8, compiled=False)
    frames = setup.new(5, 3, SIZE, SIZE, dtype=torch.uint8)

    def results() -> Iterator[Any]:
        # What comes after it are streams and pinned memory, which need the card.
        with mock.patch.object(Copies, "to_host", lambda _, *there: Arriving(there)):
            yield vars(computer.start(frames))

    return results()


def evaluate(setup: Setup) -> Iterator[Any]:
    config = EvaluateConfig(dataset="vspw", size=SIZE, samples=20, extras=True)
    networks = [setup.network(each.eval().requires_grad_(False)) for each in (DeltaTok(), DeltaWorld(), DinoWorld())]
    batch = evaluation.Batch(
        keys=("a", "b"),
        views=(0, 1),
        features=setup.new(2, CLIP_FRAMES, PATCHES, WIDTH),
        times=setup.new(2, CLIP_FRAMES, dtype=torch.float64),
        black=setup.new(PATCHES, WIDTH),
        grid=GRID,
    )

    def results() -> Iterator[Any]:
        with torch.no_grad(), mock.patch("torch.cuda.get_device_properties", return_value=H200):
            for each in predictions(batch, Models(*networks), config):
                yield vars(each)

    return results()


RUNS: dict[str, Callable[[Setup], Iterable[Any]]] = {
    "featurize, bfloat16": lambda setup: featurize(setup, torch.bfloat16),
    "featurize, float32": lambda setup: featurize(setup, torch.float32),
    "tokenizer from features": lambda setup: tokenizer_step(setup, "features"),
    "tokenizer live": lambda setup: tokenizer_step(setup, "frames"),
    "world from tokens": lambda setup: world_step(setup, "tokens"),
    "world from features": lambda setup: world_step(setup, "features"),
    "world live": lambda setup: world_step(setup, "frames"),
    "baseline from features": baseline_step,
    "evaluation": evaluate,
}


def run(name: str) -> dict[str, Any]:
    mode, traffic = FakeTensorMode(allow_non_fake_inputs=True), Traffic()
    results = iter(RUNS[name](Setup(mode)))
    devices: set[str] = set()
    types: set[str] = set()
    count = 0
    autocast = torch.autocast("cuda", torch.bfloat16, enabled="featurize" not in name, cache_enabled=False)
    with mode, autocast, traffic:
        for count, result in enumerate(results, 1):  # noqa: B007
            tensors = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
            devices |= {each.device.type for each in tensors}
            types |= {str(each.dtype).removeprefix("torch.") for each in tensors}
    return {
        "results": count,
        "devices": sorted(devices),
        "types": sorted(types),
        "crossings": dict(traffic.crossings),
        "kernels": traffic.kernels,
        "gb": round(traffic.bytes / 1e9, 2),
    }


def main(*names: str) -> None:
    with pretended_card():
        print(json.dumps({name: run(name) for name in names or RUNS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
