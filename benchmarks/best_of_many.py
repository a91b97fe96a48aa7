"""One best-of-256 training step of DeltaWorld at ViT-B size: seconds, with shared work and computed plainly.

Run: python benchmarks/best_of_many.py [--queries 256] [--repeats 5] [--device cpu]

Given tokens, batch 1, 8 frames. Both steps are the whole of it: the search without gradients, the pass with them,
backward and AdamW. The plain one folds the tries into the batch, as one would at first: every try has the tokens'
keys and values computed again, for all 8 frames under a causal mask, and every layer its own sines and cosines. Both
find the same queries and the same loss, which is checked.

Times are the least of the repeats, the two steps taking turns: on a machine that others use as well, medians tell
more about them than about the steps.

Expected: of a query's 12 · 768² products per layer in the plain step, 2 go into keys and values and 2 into its own
projections, which the shared step applies to the few tokens instead; the MLP's 8 stay. So the shared step does 0.7 of
the matrix work; backward and AdamW, which a batch of one makes large, are the same in both. So 0.7 to 0.8 of the plain
step's time. Measured on one thread of an AMD EPYC that others used, torch 2.13: 3.54 s against 4.59 s, ratio 0.77.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deltactl.train.networks.deltaworld import DeltaWorld, draw_queries
from deltactl.train.networks.layers import split_heads
from deltactl.train.networks.losses import smooth_l1, smooth_l1_each
from deltactl.train.networks.rope import Rotation, rotate, time_rotation
from deltactl.train.steps.optimization import set_layer_scales

Step = Callable[[DeltaWorld, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def shared_step(world: DeltaWorld, tokens: Tensor, times: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and kept indices of deltactl's step."""
    result = world(tokens, times, queries)
    return result.loss, result.kept


def plain_step(world: DeltaWorld, tokens: Tensor, times: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, with nothing shared between tries and layers."""
    batch, frames, tries, width = queries.shape
    tokens = tokens[:, :, 0]  # one of each frame
    targets = tokens[:, 1:]
    with torch.no_grad():
        folded = queries.transpose(1, 2).reshape(batch * tries, frames, width)
        predictions = plain_predict(
            world, tokens.repeat_interleave(tries, 0), times.repeat_interleave(tries, 0), folded
        )
        losses = smooth_l1_each(predictions.unflatten(0, (batch, tries)), targets[:, None])
        kept = losses.argmin(dim=1)
        best = queries.gather(2, kept[:, :, None, None].expand(-1, -1, 1, width))[:, :, 0]
    return smooth_l1(plain_predict(world, tokens, times, best), targets), kept


def plain_predict(world: DeltaWorld, tokens: Tensor, times: Tensor, queries: Tensor) -> Tensor:
    """Return a prediction per query, (B, T − 1, D), keys and values computed for each item of the batch."""
    x = queries
    for block in world.predictor.blocks:
        attention = block.attention
        q = rotate(split_heads(attention.q_proj(block.norm1(x))), time_rotation_of(times[:, 1:]))
        keys, values = attention.kv_proj(tokens[:, :-1]).chunk(2, dim=-1)
        keys = rotate(split_heads(keys), time_rotation_of(times[:, :-1]))
        q, keys, values = (each.transpose(1, 2) for each in (q, keys, split_heads(values)))
        read = F.scaled_dot_product_attention(q, keys, values, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + block.layer_scale1(attention.out_proj(read))
        x = x + block.layer_scale2(block.mlp(block.norm2(x)))
    return world.predictor.head(world.predictor.norm(x))


def time_rotation_of(times: Tensor) -> Rotation:
    """Return the rotation of tokens (B, L, …), without the axis of grouped queries."""
    return time_rotation(times)[:, :, 0]


def measure(step: Step, world: DeltaWorld, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor, Tensor]:
    """Return the seconds of one training step, its loss and what it kept."""
    optimizer = torch.optim.AdamW(world.parameters(), lr=0.0)
    synchronise(inputs[0].device)
    start = time.perf_counter()
    loss, kept = step(world, *inputs)
    loss.backward()
    optimizer.step()
    synchronise(inputs[0].device)
    seconds = time.perf_counter() - start
    optimizer.zero_grad()
    return seconds, loss.detach(), kept


def synchronise(device: torch.device) -> None:
    """Wait for the device, where that means anything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    world = DeltaWorld().to(options.device)
    set_layer_scales(world, 0.1)  # so that what is attended to shows in the results
    generator = torch.Generator(options.device).manual_seed(0)
    tokens = torch.randn(1, 8, 1, 768, generator=generator, device=options.device)
    times = torch.arange(8, device=options.device)[None] * 0.2
    inputs = (tokens, times, draw_queries(generator, 1, 7, options.queries, 768))

    seconds: dict[Step, list[float]] = {shared_step: [], plain_step: []}
    results = {}
    for repeat in range(options.repeats + 1):  # the first is a warm-up; the two take turns, so that noise hits both
        for step in (shared_step, plain_step):
            elapsed, *results[step] = measure(step, world, inputs)
            if repeat:
                seconds[step].append(elapsed)

    (shared_loss, shared_kept), (plain_loss, plain_kept) = results[shared_step], results[plain_step]
    torch.testing.assert_close(shared_loss, plain_loss, rtol=1e-4, atol=0)
    if not torch.equal(shared_kept, plain_kept.to(shared_kept)):
        raise SystemExit("the two steps kept different queries")
    shared, plain = (min(seconds[step]) for step in (shared_step, plain_step))
    print(f"device {options.device}, {torch.get_num_threads()} threads, best of {options.queries}, 8 frames, batch 1")
    print(f"shared  {shared:7.3f} s   (all: {', '.join(f'{each:.3f}' for each in seconds[shared_step])})")
    print(f"plain   {plain:7.3f} s   (all: {', '.join(f'{each:.3f}' for each in seconds[plain_step])})")
    print(f"ratio   {shared / plain:7.3f}   shared / plain; loss {shared_loss.item():.6f}, same queries kept")


if __name__ == "__main__":
    main()
