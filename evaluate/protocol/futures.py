"""Sampled futures: takes tokens of the context, returns `S` rollouts of each clip, within the memory at hand.

Randomness belongs to the clip. The queries of a clip come from a generator of its own, seeded by (seed, key, view,
purpose) and run on the CPU, so neither `--limit`, the order of the clips, the batch size, the number of processes nor
the device changes the futures of a clip, and the first 5 of 20 samples are the 5 that are drawn alone. The views of a
clip (its two square crops) draw their own.

Cost: a sample is `horizon` decoder passes over `K + P` tokens; as many of them run at once as the memory holds.

B batch · C context frames · S samples · H horizon · P patches · K tokens of a frame · D feature width · d token width ·
W query width
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from deltactl.evaluate.protocol.memory import AtOnce
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import QUERY_STD, DeltaWorld

# What one sequence holds at its widest in a decoder block, in tensors of (K + P, D) float32: the residual stream, its
# norm, q, k, v, the attention's output and the two halves of the gated MLP, with room for the temporaries of each.
_TENSORS_OF_A_SEQUENCE = 16
_SHARE_OF_MEMORY = 0.25
_MOST_AT_ONCE = 256
_MOST_AT_ONCE_ON_CPU = 8  # more gains nothing there; 0.4 GB at 512 px


def clip_generator(seed: int, key: str, view: int, purpose: str) -> torch.Generator:
    """Return the CPU generator of one clip's draws.

    `purpose` separates what is drawn for different ends (`futures-h3`, `noise-h3`): one more horizon or table leaves
    the others as they were.
    """
    name = f"{seed}\n{key}\n{view}\n{purpose}".encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
    return torch.Generator("cpu").manual_seed(number)


def draw_queries(*, seed: int, key: str, view: int, samples: int, horizon: int, width: int) -> Float[Tensor, "S H W"]:
    """Return the queries of one clip's futures, `0.02 · N(0, 1)`, on the CPU.

    Each sample is drawn on its own: more samples leave the first ones as they are.
    """
    generator = clip_generator(seed, key, view, f"futures-h{horizon}")
    drawn = [torch.randn(horizon, width, generator=generator) for _ in range(samples)]
    return QUERY_STD * torch.stack(drawn)


def sample_futures(
    world: DeltaWorld,
    tokenizer: DeltaTok,
    *,
    tokens: Float[Tensor, "B C K d"],
    times: Float[Tensor, "B C"],
    target_times: Float[Tensor, "B H"],
    last: Float[Tensor, "B P D"],
    grid: tuple[int, int],
    queries: Float[Tensor, "B S H W"],
    at_once: AtOnce | None = None,
) -> Float[Tensor, "B S H P D"]:
    """Return the features of every sample at every step.

    `times` and `target_times` are in seconds; `last` are the true features of the last context frame; `at_once` says
    how many samples, of all clips together, run at once, and remembers where they had to be fewer (default:
    `samples_at_once`).
    """
    batch, samples, horizon = queries.shape[:3]
    patches, dim = last.shape[1:]
    at_once = at_once or samples_at_once(last.device, patches, dim, tokens.shape[2])
    futures = last.new_empty(batch, samples, horizon, patches, dim)

    def roll(start: int, stop: int) -> None:
        futures[:, start:stop] = world.rollout(
            tokens, times, target_times, last, tokenizer, grid, queries[:, start:stop].to(last.device)
        )

    for _ in at_once.pieces(samples, roll, each=batch):
        pass
    return futures


def samples_at_once(device: torch.device, patches: int, dim: int, tokens: int = 1) -> AtOnce:
    """Return how many samples run at once on this device, at the beginning; `tokens` is K."""
    return AtOnce("samples", sequences_at_once(device, patches, dim, tokens), device)


def sequences_at_once(device: torch.device, patches: int, dim: int, tokens: int = 1) -> int:
    """Return how many sequences of `tokens + patches` a network may take at once on this device.

    It follows the memory that the device has, not what happens to be free: two runs on one machine make the same
    batches and give the same bits.
    """
    if device.type != "cuda":
        return _MOST_AT_ONCE_ON_CPU
    each = _TENSORS_OF_A_SEQUENCE * (tokens + patches) * dim * 4
    total = torch.cuda.get_device_properties(device).total_memory
    return max(1, min(_MOST_AT_ONCE, int(_SHARE_OF_MEMORY * total) // each))
