"""The networks once more, written straight from their definition: a state dict and inputs in, outputs out.

Nothing is shared, batched over tries or skipped: one head at a time, explicit softmax, keys and values for each query
of its own, positions from their formula. Slow and obvious, for tests to compare with. Switches of the tokenizer are
seen in the weights, but for `delta`, which leaves no trace there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deltactl.train.networks.deltatok import DeltaTok

Weights = dict[str, Tensor]


def under(weights: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def layer_norm(x: Tensor, weights: Weights, name: str, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"]
    return normed + weights[f"{name}.bias"] if f"{name}.bias" in weights else normed


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: q (…, Q, 64) over k and v (…, L, 64)."""
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


def depth_of(weights: Weights, stack: str) -> int:
    return 1 + max(int(key.removeprefix(stack).split(".")[0]) for key in weights if key.startswith(stack))


# ---- tokenizer


def patch_angles(grid: tuple[int, int], rescale: float = 1.0) -> Tensor:
    """Angles (P, 64) of patch centres in [−1, 1]: 16 pairs turn with the row, 16 with the column, base 100."""
    rows, columns = grid
    places = [
        ((2 * (row + 0.5) / rows - 1) * rescale, (2 * (column + 0.5) / columns - 1) * rescale)
        for row in range(rows)
        for column in range(columns)
    ]
    periods = torch.tensor([100.0 ** (i / 16) for i in range(16)])
    halves = [torch.cat((2 * math.pi * y / periods, 2 * math.pi * x / periods)) for y, x in places]
    return torch.stack([torch.cat((half, half)) for half in halves])


def turn_patches(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate-half of (B, K + n, 64), the first K tokens left alone."""
    z, patches = x[:, : -len(angles)], x[:, -len(angles) :]
    turned = torch.cat((-patches[..., 32:], patches[..., :32]), dim=-1)
    return torch.cat((z, patches * angles.cos() + turned * angles.sin()), dim=1)


def tokenizer_block(h: Tensor, weights: Weights, angles: Tensor) -> Tensor:
    x = layer_norm(h, weights, "norm1")
    attention = under(weights, "attention.")
    heads = []
    for head in range(h.shape[-1] // 64):
        own = slice(64 * head, 64 * head + 64)
        q, k, v = (linear(x, attention, f"{name}_proj")[..., own] for name in "qkv")
        q, k = turn_patches(q, angles), turn_patches(k, angles)
        if "q_norm.weight" in attention:
            q, k = layer_norm(q, attention, "q_norm"), layer_norm(k, attention, "k_norm")
        out = attend(q, k, v)
        if "attn_gate.weight" in attention:
            out = out * torch.sigmoid(linear(x, attention, "attn_gate")[..., head, None])
        heads.append(out)
    h = h + weights["layer_scale1.lambda1"] * linear(torch.cat(heads, dim=-1), attention, "o_proj")
    x, mlp = layer_norm(h, weights, "norm2"), under(weights, "mlp.")
    if "gate_proj.weight" in mlp:
        inner = F.silu(linear(x, mlp, "gate_proj")) * linear(x, mlp, "up_proj")
    else:
        inner = F.gelu(linear(x, mlp, "up_proj"))
    return h + weights["layer_scale2.lambda1"] * linear(inner, mlp, "down_proj")


def tokenizer_encode(
    weights: Weights, x: Tensor, y: Tensor, grid: tuple[int, int], delta: bool = True, rescale: float = 1.0
) -> Tensor:
    angles = patch_angles(grid, rescale)
    frames = [y + weights["xy_embed.weight"][1]]
    if delta:
        frames, angles = [x + weights["xy_embed.weight"][0], *frames], torch.cat((angles, angles))
    count = len(weights["z_embed.weight"])
    h = torch.cat((weights["z_embed.weight"].expand(len(y), count, -1), *frames), dim=1)
    for i in range(depth_of(weights, "encoder_blocks.")):
        h = tokenizer_block(h, under(weights, f"encoder_blocks.{i}."), angles)
    z = layer_norm(h[:, :count], weights, "norm")
    return linear(z, weights, "to_token") if "to_token.weight" in weights else z


def tokenizer_decode(
    weights: Weights, z: Tensor, x: Tensor, grid: tuple[int, int], delta: bool = True, rescale: float = 1.0
) -> Tensor:
    start = x if delta else weights["xy_embed.weight"][0].expand_as(x)
    h = torch.cat((linear(z, weights, "from_token") if "from_token.weight" in weights else z, start), dim=1)
    for i in range(depth_of(weights, "decoder_blocks.")):
        h = tokenizer_block(h, under(weights, f"decoder_blocks.{i}."), patch_angles(grid, rescale))
    return h[:, z.shape[1] :]


# ---- world models


def reconstruct(
    network: DeltaTok,
    features: Tensor,
    grid: tuple[int, int],
    horizon: int,
    black: Tensor | None = None,
    encoding: str = "sequential",
) -> Tensor:
    """The last `horizon` frames of clips (B, T, P, D), one pair of frames at a time, as (B, horizon, P, D).

    From the true frame before them, or from `black` (P, D) where they are the whole clip. "sequential" encodes each
    true frame against the reconstruction before it, "parallel" against the true frame before it.
    """
    first = features.shape[1] - horizon
    before = features[:, first - 1] if first or black is None else black.expand_as(features[:, 0])
    rebuilt = before
    frames = []
    with torch.no_grad():
        for current in features[:, first:].unbind(1):
            token = network.encode(rebuilt if encoding == "sequential" else before, current, grid)
            before, rebuilt = current, network.decode(token, rebuilt, grid)
            frames.append(rebuilt)
    return torch.stack(frames, dim=1)


def turn(x: Tensor, coordinates: tuple[float, ...]) -> Tensor:
    """Rotate one token's (64,) head by its coordinates: (time,), or (time, x, y)."""
    pairs = 30 // len(coordinates)
    frequencies = 10 ** -torch.linspace(-2, 2, pairs)
    turned = []
    for axis, coordinate in enumerate(coordinates):
        own = x[2 * pairs * axis : 2 * pairs * (axis + 1)]
        a, b = own[:pairs], own[pairs:]
        # float32, as the definition's numbers are: the fastest pair makes 100 turns a second
        angle = 2 * math.pi * torch.tensor(coordinate, dtype=torch.float32) * frequencies
        turned += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.cat((*turned, x[60:]))


def predict_one(
    weights: Weights,
    query: Tensor,
    where: tuple[float, ...],
    tokens: Tensor,
    places: list[tuple[float, ...]],
    marks: Tensor | None = None,
) -> Tensor:
    """One query (W,) at `where` over the tokens (L, D) at `places`, all of which it sees; `marks` (L, W) are added to
    their keys.
    """
    for i in range(depth_of(weights, "predictor.blocks.")):
        block = under(weights, f"predictor.blocks.{i}.")
        attention, mlp = under(block, "attention."), under(block, "mlp.")
        width = len(query)
        q = linear(layer_norm(query, block, "norm1"), attention, "q_proj")
        kv = linear(tokens, attention, "kv_proj")
        heads = []
        for head in range(width // 64):
            own = slice(64 * head, 64 * head + 64)
            keys, values = (kv[:, :width] + (0 if marks is None else marks))[:, own], kv[:, width:][:, own]
            keys = torch.stack([turn(key, place) for key, place in zip(keys, places, strict=True)])
            heads.append(attend(turn(q[own], where)[None], keys, values)[0])
        query = query + block["layer_scale1.lambda1"] * linear(torch.cat(heads), attention, "out_proj")
        inner = F.gelu(linear(layer_norm(query, block, "norm2"), mlp, "up_proj"))
        query = query + block["layer_scale2.lambda1"] * linear(inner, mlp, "down_proj")
    return linear(layer_norm(query, weights, "predictor.norm"), weights, "predictor.head")


def predict_frame(weights: Weights, draw: Tensor, time: Tensor, past: Tensor, times: Tensor) -> Tensor:
    """One future (K, D) of the frame at `time` from one draw (W,) and the tokens (t, K, D) of frames at `times`."""
    count = past.shape[1]
    marks = weights.get("token_embed.weight", torch.zeros(1, len(draw)))
    known, places = past.flatten(0, 1), [(float(t),) for t in times for _ in range(count)]
    return torch.stack(
        [
            predict_one(weights, draw + marks[k], (float(time),), known, places, marks.repeat(len(times), 1))
            for k in range(count)
        ]
    )


def world_predict(weights: Weights, tokens: Tensor, times: Tensor, queries: Tensor) -> Tensor:
    """Predictions (B, T − 1, Q, K, D) of frames 1 to T − 1 from queries (B, T − 1, Q, W)."""
    batch, frames, tries = queries.shape[:3]
    predicted = torch.empty(batch, frames, tries, *tokens.shape[2:])
    for b in range(batch):
        for t in range(1, frames + 1):
            for q in range(tries):
                draw = queries[b, t - 1, q]
                predicted[b, t - 1, q] = predict_frame(weights, draw, times[b, t], tokens[b, :t], times[b, :t])
    return predicted


def world_rollout(weights: Weights, tokens: Tensor, times: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """Token rollouts (B, S, H, K, D) from queries (B, S, H, W), each sample on its own."""
    futures = torch.empty(*queries.shape[:3], *tokens.shape[2:])
    for b in range(len(tokens)):
        for s in range(queries.shape[1]):
            known, seen = tokens[b], times[b]
            for step, time in enumerate(targets[b]):
                futures[b, s, step] = predict_frame(weights, queries[b, s, step], time, known, seen)
                known, seen = torch.cat((known, futures[b, s, step, None])), torch.cat((seen, time[None]))
    return futures


def patch_places(times: Tensor, grid: tuple[int, int]) -> list[tuple[float, ...]]:
    """(time, x, y) of every patch of frames at `times` (T,)."""
    ys, xs = (torch.linspace(-1, 1, n).tolist() for n in grid)
    return [(float(t), x, y) for t in times for y in ys for x in xs]


def dino_predict(weights: Weights, features: Tensor, times: Tensor, time: Tensor, grid: tuple[int, int]) -> Tensor:
    """The frame (P, D) at `time` from all patches of frames (T, P, D) at `times`."""
    known, places = features.flatten(0, 1), patch_places(times, grid)
    query = weights["q_embed.weight"][0]
    return torch.stack([predict_one(weights, query, where, known, places) for where in patch_places(time[None], grid)])
