"""How fast devices do that arithmetic, and how we know: from the published cost, measured here, or assumed.

The published runs (DeltaTok, arXiv 2604.04913) trained live, so what they cost says how fast an H200 is at frozen
networks (the world model's first stage, 95 % of which is frozen) and at training (both tokenizer stages, what the
backbone took left out). `measure` times two blocks of a tokenizer on this machine instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from deltactl.errors import ConfigError
from deltactl.train.work import NetworkSizes

BATCH = 1024
WORLD_STEPS, WORLD_GPU_SECONDS = 300_000, 32 * 32 * 3600.0
TOKENIZER_RUNS = ((256, 1_000_000, 8 * 82 * 3600.0), (512, 500_000, 16 * 89 * 3600.0))
"""Size, steps and GPU-seconds of the published tokenizer stages."""

RELATIVE_TO_H200 = {"h200": 1.0, "h100": 1.0, "a100": 312 / 989}
"""By the bf16 matrix rates that their maker states."""

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
    source: str
    """How these are known, in words."""


def published_h200() -> Rates:
    """Return what the published cost says of one H200."""
    large = NetworkSizes(512)
    clip = 8 * (large.backbone() + large.encode()) + large.world_step(8, 256)
    forward = clip * WORLD_STEPS * BATCH / WORLD_GPU_SECONDS
    work = seconds = 0.0
    for size, steps, gpu_seconds in TOKENIZER_RUNS:
        sizes = NetworkSizes(size)
        work += sizes.tokenizer_step() * steps * BATCH
        seconds += gpu_seconds - 2 * sizes.backbone() * steps * BATCH / forward
    return Rates(forward, work / seconds, "derived from the published cost of 8 to 32 H200; not measured here")


def rates_of(gpu: str) -> Rates:
    """Return the rates of a GPU by name; ConfigError for one that is not known."""
    if gpu not in RELATIVE_TO_H200:
        known = ", ".join(RELATIVE_TO_H200)
        raise ConfigError(f"--gpu is {gpu!r}; expected one of {known}, or here to measure this machine")
    h200, factor = published_h200(), RELATIVE_TO_H200[gpu]
    if gpu == "h200":
        return h200
    source = f"assumed: {factor:.2g} × what the published cost says of an H200, by their stated matrix rates"
    return Rates(h200.forward * factor, h200.training * factor, source)


def measure(sizes: NetworkSizes) -> Rates:
    """Time a tokenizer of two blocks at these sizes on this machine's GPU or CPU, after a warm-up."""
    import time

    import torch

    from deltactl.devices import device_of
    from deltactl.train.deltatok import DeltaTok, DeltaTokConfig

    device = device_of("auto")
    pairs = 32 if device.type == "cuda" else 2
    network = DeltaTok(DeltaTokConfig(width=sizes.width, depth=2, swiglu=sizes.swiglu)).to(device)
    frames = torch.randn(2, pairs, sizes.patches, sizes.width, device=device)
    side = sizes.size // 16
    small = NetworkSizes(sizes.size, sizes.width, tokenizer_depth=2, swiglu=sizes.swiglu)

    def seconds(learn: bool) -> float:
        best = float("inf")
        for _ in range(3):  # the first warms up
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            with torch.set_grad_enabled(learn), torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
                token = network.encode(frames[0], frames[1], (side, side))
                decoded = network.decode(token, frames[0], (side, side))
                if learn:
                    decoded.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best

    forward = pairs * (small.encode() + small.decode()) / seconds(learn=False)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return Rates(forward, pairs * small.tokenizer_step() / seconds(learn=True), f"measured just now on this {name}")
