"""How fast devices do that work, and how we know: from the published cost, measured here, or assumed.

The published runs (DeltaTok, arXiv 2604.04913) trained live, so what they cost says how fast an H200 is at frozen
networks (the world model's first stage, 95 % of which is frozen) and at training (both tokenizer stages, what the
backbone took left out). `measure` times two blocks of a tokenizer on this machine instead, compiled on a GPU, as the
stages compile theirs. That costs seconds, and on a GPU a minute for the compiler.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from deltactl.compilation import compile_module
from deltactl.configs.frame_size import FrameSize
from deltactl.devices import device_of
from deltactl.errors import ConfigError
from deltactl.gpu_faults import usable_gpus
from deltactl.recipes.work import NetworkSizes
from deltactl.train.networks.deltatok import DeltaTok

BATCH = 1024
"""Samples of an optimizer step in the published runs."""
WORLD_BATCH = 32
"""Clips that each GPU took at a time."""
WORLD_STEPS, WORLD_GPU_SECONDS = 300_000, 32 * 32 * 3600.0
TOKENIZER_RUNS = ((256, 1_000_000, 8 * 82 * 3600.0), (512, 500_000, 16 * 89 * 3600.0))
"""Size, steps and GPU-seconds of the published tokenizer stages."""

RELATIVE_TO_H200 = {"h200": 1.0, "h100": 1.0, "a100": 312 / 989}
"""By the bf16 matrix rates that their maker states."""
MEMORY_RELATIVE_TO_H200 = {"h200": 1.0, "h100": 3.35 / 4.8, "a100": 2.04 / 4.8}
"""By the memory rates that their maker states."""
H200_MOVED_BYTES_PER_SECOND = 4.0e12
LAUNCH_SECONDS = 6e-6
"""Assumed: fused kernels of an H200 read and write 4 TB/s of the 4.8 that are stated; a small kernel takes 6 µs from
its launch to the next one's, whatever the card."""

READ_BYTES_PER_SECOND = 2e9
DECODED_FRAMES_PER_CORE_SECOND = 100.0
INGESTED_CLIPS_PER_CORE_SECOND = 2.0
SHARD_BYTES_PER_PIXEL = 0.3
"""Assumed: a node reads at 2 GB/s; a core decodes and crops 100 JPEG frames a second, or cuts two clips a second from
video; a JPEG of quality 95 takes 0.3 bytes a pixel."""


@dataclass(frozen=True)
class Rates:
    """FLOP/s of one device, in forward passes and in training."""

    forward: float
    training: float
    basis: str
    """How these are known, in words."""
    moved_bytes: float = float("inf")
    """Bytes a second that kernels between matrix products read and write; infinite on a CPU, where the products' rate,
    measured with all that is between them, says enough."""
    launch: float = 0.0
    """Seconds that a small kernel takes; nothing on a CPU."""
    device: Literal["GPU", "CPU"] = "GPU"

    def world_seconds(self, networks: NetworkSizes, *, frames: int, queries: int, batch: int) -> float:
        """Return the seconds of one clip's best-of-many step from tokens, in batches of so many clips."""
        # Most queries run forward only.
        products = networks.world_step_flops(frames, queries) / self.forward
        return products + self.beside_products(networks, frames, queries, batch)

    def beside_products(self, networks: NetworkSizes, frames: int, queries: int, batch: int) -> float:
        """Return what of it is not matrix products."""
        moved = networks.search_bytes(frames, queries) / self.moved_bytes
        return moved + networks.pass_kernels() * self.launch / batch


def paper_h200() -> Rates:
    """Return what the published cost says of one H200."""
    large, frames, queries = NetworkSizes(FrameSize(512, 512)), 8, 256
    beside = Rates(1.0, 1.0, "", H200_MOVED_BYTES_PER_SECOND, LAUNCH_SECONDS)
    clip = frames * (large.backbone_flops() + large.encode_flops()) + large.world_step_flops(frames, queries)
    seconds_of_clip = WORLD_GPU_SECONDS / (WORLD_STEPS * BATCH)
    forward = clip / (seconds_of_clip - beside.beside_products(large, frames, queries, WORLD_BATCH))
    work = seconds = 0.0
    for size, steps, gpu_seconds in TOKENIZER_RUNS:
        networks = NetworkSizes(FrameSize(size, size))
        work += networks.tokenizer_step_flops() * steps * BATCH
        seconds += gpu_seconds - 2 * networks.backbone_flops() * steps * BATCH / forward
    basis = "derived from the published cost of 8 to 32 H200; not measured here"
    return replace(beside, forward=forward, training=work / seconds, basis=basis)


def rates_of(gpu: str) -> Rates:
    """Return the rates of a GPU by name.

    Raises:
        ConfigError: none are known for it.
    """
    if gpu not in RELATIVE_TO_H200:
        known = ", ".join(RELATIVE_TO_H200)
        raise ConfigError(f"--gpu is {gpu!r}; expected one of {known}, or here to measure this machine")
    h200, factor = paper_h200(), RELATIVE_TO_H200[gpu]
    if gpu == "h200":
        return h200
    memory = MEMORY_RELATIVE_TO_H200[gpu]
    return replace(
        h200,
        forward=h200.forward * factor,
        training=h200.training * factor,
        moved_bytes=h200.moved_bytes * memory,
        basis=f"assumed: {factor:.2g} × what the published cost says of an H200, by their stated matrix rates; "
        f"{memory:.2g} × its memory",
    )


def devices_here() -> tuple[int, int]:
    """Return how many GPUs this machine has, or 1 for its CPU, and how many cores each of them can have."""
    devices = max(1, usable_gpus())
    return devices, max(1, len(os.sched_getaffinity(0)) // devices)


def measure(networks: NetworkSizes) -> Rates:
    """Time this tokenizer, cut to two blocks, on this machine's GPU or CPU, after a warm-up."""
    device = device_of("auto")
    on_gpu = device.type == "cuda"
    pairs = 32 if on_gpu else 2
    small = replace(networks, tokenizer=replace(networks.tokenizer, depth=2))
    network = DeltaTok(small.tokenizer).to(device)
    if on_gpu:
        compile_module(network, device.type, "the network that is timed")
    frames = torch.randn(2, pairs, small.patches, small.width, device=device)

    def run(learn: bool) -> None:
        with torch.set_grad_enabled(learn), torch.autocast(device.type, torch.bfloat16, on_gpu):
            decoded = network(frames[0], frames[1], small.grid)
        if learn:
            decoded.float().square().mean().backward()

    flops = small.encode_flops() + small.decode_flops()
    forward = pairs * flops / _least_seconds(lambda: run(learn=False), on_gpu)
    training = pairs * small.tokenizer_step_flops() / _least_seconds(lambda: run(learn=True), on_gpu)
    if not on_gpu:
        return Rates(forward, training, "measured just now on this CPU", device="CPU")
    some, number = torch.empty(2**30, dtype=torch.uint8, device=device), torch.zeros((), device=device)

    def launch_many() -> None:
        for _ in range(1000):
            number.add_(1)

    return Rates(
        forward,
        training,
        f"measured just now on this {torch.cuda.get_device_name()}",
        moved_bytes=2 * 2**30 / _least_seconds(lambda: some.clone(), on_gpu),
        launch=_least_seconds(launch_many, on_gpu) / 1000,
    )


def _least_seconds(call: Callable[[], object], on_gpu: bool) -> float:
    """Return the seconds of the best of a few calls, each of which is waited for."""
    best = float("inf")
    for _ in range(3):  # the first warms up
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best
