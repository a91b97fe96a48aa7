"""What bfloat16 gives, and costs, on a CPU: frozen backbone, frozen tokenizer, and the search of best-of-many.

Run: python benchmarks/low_precision.py [--size 256] [--frames 8] [--queries 256] [--clips 8] [--repeats 3]

ViT-B sizes, random weights; the tokenizer and the world model with layer scales of 0.1, so that every block matters.
The two precisions take turns, and times are the least of the repeats. Errors:

    features, tokens    least and mean cosine between a float32 vector and its bfloat16 one (identity's bound: 0.9999)
    search              how many of the queries that are kept are the same, and by how much the loss of those that
                        bfloat16 keeps (computed in float32) lies above the least one

Expected on a CPU with AMX or AVX512-BF16: backbone 2.9 × as fast, encoder 2.2 ×, the search about 2 ×. On one without,
bfloat16 is emulated, and slower than float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from deltactl.devices import products_in, store_products
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld, draw_queries
from deltactl.train.networks.losses import smooth_l1_each
from deltactl.train.steps.optimization import set_layer_scales
from train import write_backbone

DTYPES = (torch.float32, torch.bfloat16)
FRAMES = 8


def in_turn(runs: list[Callable[[], Tensor]], repeats: int) -> list[tuple[float, Tensor]]:
    """Return the least seconds and the result of each run; they take turns, after one to warm up."""
    seconds, results = [[float("inf")] for _ in runs], [run() for run in runs]
    for _ in range(repeats):
        for place, run in enumerate(runs):
            begun = time.perf_counter()
            run()
            seconds[place].append(time.perf_counter() - begun)
    return [(min(spent), result) for spent, result in zip(seconds, results, strict=True)]


def say(what: str, found: list[tuple[float, Tensor]], error: str) -> None:
    """Print a row."""
    (plain, _), (low, _) = found
    print(f"{what:22} {plain:8.3f} {low:9.3f} {plain / low:7.2f} ×   {error}")


def cosines(found: list[tuple[float, Tensor]]) -> str:
    """Return how near the two results' vectors are."""
    (_, plain), (_, low) = found
    near = torch.nn.functional.cosine_similarity(plain.float(), low.float(), dim=-1)
    return f"cosine: least {near.min():.6f}, mean {near.mean():.6f}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)

    print(f"{options.threads} threads, {options.size} px, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'seconds':22}  float32  bfloat16  faster   error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_backbone(folder)
        noise = torch.rand(options.frames, 3, options.size // 16, options.size // 16, generator=generator)
        frames = (255 * torch.nn.functional.interpolate(noise, scale_factor=16, mode="bilinear")).to(torch.uint8)
        backbones = [Backbone.load(folder, "cpu", dtype) for dtype in DTYPES]
        found = in_turn([lambda each=each: each(frames) for each in backbones], options.repeats)
        say(f"backbone, {options.frames} frames", found, cosines(found))
        grid, features = backbones[0].grid(options.size, options.size), found[0][1][None]

    tokenizers = []
    for dtype in DTYPES:
        torch.manual_seed(0)
        tokenizer = DeltaTok().eval().requires_grad_(False)
        set_layer_scales(tokenizer, 0.1)
        if dtype != torch.float32:
            store_products(tokenizer, dtype)
        tokenizers.append((tokenizer, dtype))

    def encode(tokenizer: DeltaTok, dtype: torch.dtype) -> Tensor:
        with products_in(dtype, torch.device("cpu")):
            return tokenizer.encode_clip(features, features[0, 0], grid)

    found = in_turn([lambda each=each: encode(*each) for each in tokenizers], options.repeats)
    say(f"encoder, {options.frames} pairs", found, cosines(found))

    torch.manual_seed(0)
    world = DeltaWorld()
    set_layer_scales(world, 0.1)
    tokens = torch.randn(options.clips, FRAMES, 1, 768, generator=generator)
    times = 0.2 * torch.arange(float(FRAMES)).expand(options.clips, -1)
    queries = draw_queries(generator, options.clips, FRAMES - 1, options.queries, 768)
    found = in_turn(
        [lambda dtype=dtype: world(tokens, times, queries, dtype).kept for dtype in DTYPES],
        options.repeats,
    )
    (_, best), (_, kept) = found
    predicted = [world.predict(tokens, times, queries[:, :, number]) for number in range(options.queries)]
    losses = smooth_l1_each(torch.stack(predicted, dim=2)[..., 0, :], tokens[:, 1:])
    least, got = (losses.gather(2, index[..., None])[..., 0] for index in (best, kept))
    same, above = float((best == kept).float().mean()), float(((got - least) / least).mean())
    spread = float((losses.std(dim=2) / least).mean())
    say(
        f"search, {options.clips} clips",
        found,
        f"the same query kept for {100 * same:.0f} % of the frames; loss of those kept {above:.1e} above the least, "
        f"where the queries' losses spread by {spread:.1e} of it",
    )


if __name__ == "__main__":
    main()
