"""Trains on the CPU with the choices of a GPU, and prints as JSON what came of it.

    JAXTYPING_DISABLE=1 python tests/helpers/as_on_gpu.py train DATA OUT PRECISION DEVICES CASE…
    JAXTYPING_DISABLE=1 python tests/helpers/as_on_gpu.py gradients NETWORK BUCKET_MB

`train`: the losses of each case with eager and compiled networks, everything else as `auto` would choose on a GPU.
`gradients`: one step of a network at the published size inside DistributedDataParallel with one gloo process: its loss
and gradients compiled, against those without. Programs of their own, because the tests' check of shapes in signatures
is a wrapper that torch.compile cannot trace. Graphs are captured and differentiated as on a GPU (`aot_eager`), and run
without making kernels.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from golden_vectors import awake
from lightning.pytorch.strategies import DDPStrategy
from small_training import tokenizer_config, world_config
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.train import loop, run
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld, draw_queries
from deltactl.train.networks.dinoworld import DinoWorld
from deltactl.train.networks.losses import log_cosh, smooth_l1
from deltactl.train.steps.choices import choose
from deltactl.train.steps.compiling import prepare
from deltactl.train.steps.frozen import Frozen
from deltactl.train.steps.modules import DinoWorldModule, TokenizerModule, TrainingModule, WorldModule
from deltactl.train.steps.optimization import OptimizerConfig

TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
SMALL_BUCKETS_MB = 1
STEPS = 3
torch_compile = torch.compile


def capture_only() -> None:
    """Have graphs captured, and run as they are."""

    def in_place(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        self._compiled_call_impl = torch_compile(self._call_impl, backend="aot_eager")

    nn.Module.compile = in_place  # type: ignore[method-assign]
    torch.compile = lambda function, **_: torch_compile(function, dynamic=False, backend="aot_eager")


def choose_as_on_gpu() -> None:
    """Have `auto` mean what it means on a GPU, wherever a run asks."""
    for module in (loop, run):
        module.choose = lambda config, on_gpu: choose(config, on_gpu=True)  # type: ignore[attr-defined]


# --- whole runs ------------------------------------------------------------------------------------------------------


def config_of(case: str, data: Path, out: Path, changes: dict[str, Any]) -> TokenizerConfig | WorldConfig:
    kind, source = case.split("/")
    place = str(data / source)
    if kind == "tokenizer":
        network = {"width": 128, "depth": 4, "layer_scale": 0.1, "rope_augment": False}
        return tokenizer_config(place, out, network=network, **changes)
    given = {} if source == "tokens" or kind == "dinoworld" else {"tokenizer": TOKENIZER}
    network = {"kind": kind, "width": 256, "depth": 3, "layer_scale": 0.1}
    return world_config(place, out, network=network, queries=20, clip_norm=1.0, **given, **changes)


def losses(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows for name in ("train/loss", "validation/loss") if row.get(name)]


def train(data: Path, out: Path, precision: str, devices: int, cases: list[str]) -> dict[str, Any]:
    capture_only()
    choose_as_on_gpu()
    if devices > 1:
        loop._strategy = lambda _: DDPStrategy(process_group_backend="gloo", bucket_cap_mb=SMALL_BUCKETS_MB)
    found: dict[str, Any] = {}
    for case in cases:
        for name, compiled in (("eager", False), ("compiled", "auto")):
            torch._dynamo.reset()
            place = out / case.replace("/", "-") / name
            changes = {
                "steps": STEPS,
                "log_every": 1,
                "validate_every": STEPS,
                "compile": compiled,
                "precision": precision,
                "batch_size": 8 // devices,
                "trainer": {"accelerator": "cpu", "devices": devices},
            }
            run.train(config_of(case, data, place, changes), "run")
            if int(os.environ.get("LOCAL_RANK", "0")) == 0:
                found.setdefault(case, {})[name] = losses(place)
    found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


# --- one step at the published size ----------------------------------------------------------------------------------

GRID = (2, 3)


class Step(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, times: Tensor, queries: Tensor) -> Tensor:
        match self.network:
            case DeltaTok():
                return log_cosh(self.network(tokens[:, 0], tokens[:, 1], GRID), tokens[:, 1])
            case DinoWorld():
                return smooth_l1(self.network(tokens, times, GRID), tokens[:, 1:])
            case _:
                loss: Tensor = self.network(tokens[:, :, :1], times, queries).loss
                return loss


def module_of(name: str) -> TrainingModule:
    settings = OptimizerConfig(1e-4, 0.4, 0)
    torch.manual_seed(0)
    match name:
        case "tokenizer":
            return TokenizerModule(awake(DeltaTok()), settings, Frozen(), 0)
        case "dinoworld":
            return DinoWorldModule(awake(DinoWorld()), settings, Frozen(), 0)
        case _:
            return WorldModule(awake(DeltaWorld()), settings, Frozen(), 0, queries=20)


def gradients(name: str, bucket_mb: float) -> dict[str, float]:
    capture_only()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    module = module_of(name)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, 4, 6, 768, generator=generator)
    inputs = (tokens, 0.2 * torch.arange(4.0).expand(4, 4), draw_queries(generator, 4, 3, 20, 768))
    choices = choose(TokenizerConfig() if name == "tokenizer" else WorldConfig(), on_gpu=True)
    found: list[dict[str, Tensor]] = []
    for compiled in (False, True):
        module.zero_grad(set_to_none=True)
        if compiled:
            compilation = prepare(module, choices, device_type="cpu", processes=1, accumulate=1)
        step = (
            DistributedDataParallel(Step(module.network), bucket_cap_mb=bucket_mb) if compiled else Step(module.network)
        )
        torch.manual_seed(5)
        if compiled:
            with compilation:
                loss = step(*inputs)
        else:
            loss = step(*inputs)
        loss.backward()
        named = {key: parameter.grad for key, parameter in module.named_parameters()}
        assert all(gradient is not None for gradient in named.values()), "a parameter got no gradient"
        found.append({"loss": loss.detach(), **{key: grad.clone() for key, grad in named.items() if grad is not None}})
    distributed.destroy_process_group()
    plain, other = found
    apart = {key: float((other[key] - plain[key]).norm() / plain[key].norm().clamp(min=1e-12)) for key in plain}
    worst = max(apart, key=lambda key: apart[key])
    return {
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "apart": apart[worst],
        worst: apart[worst],
    }


def main(what: str, *words: str) -> None:
    if what == "gradients":
        print(json.dumps(gradients(words[0], float(words[1]))))
        return
    data, out, precision, devices, *cases = words
    found = train(Path(data), Path(out), precision, int(devices), cases)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
