"""Kind, sizes and switches of a network, read from the names and shapes of its weights.

In: a state dict with the published names. Out: the kind and the config that `architecture.build` takes. Heads of
attention are 64 wide, so their number follows from the width. Two things cannot be read: whether a tokenizer works on
deltas (taken for on), and the number of heads of an RGB head (taken for sixteen, as published, and fewer where they
would be narrower than 16). A header says them where it matters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from deltactl.errors import CheckpointError
from deltactl.train.architecture import Config, HeadConfig, Kind, State, head_kind
from deltactl.train.deltatok import DeltaTokConfig
from deltactl.train.deltaworld import DeltaWorldConfig
from deltactl.train.dinoworld import DinoWorldConfig
from deltactl.train.rgb_head import RGBHeadConfig


def infer(state: State, source: str) -> tuple[Kind, Config]:
    """Return kind and config of the network that these weights belong to, without a header.

    Raises CheckpointError when they are of no kind here, or a parameter that tells a size is missing.
    """
    kind = _kind(state, source)
    return kind, _checked(source, lambda: _READERS[kind](state, source))


def _kind(state: State, source: str) -> Kind:
    first = {name.split(".", 1)[0] for name in state}
    if first & {"z_embed", "xy_embed", "encoder_blocks"}:
        return "tokenizer"
    if "q_embed" in first:
        return "dinoworld"
    if any(name.startswith(("predictor.blocks.", "predictor.head.")) for name in state):
        return "world"
    if first & {"decoder_layers", "decoder_embed", "decoder_pred"}:
        return "rgb"
    if {"bn", "head"} <= first:
        outputs = _size(state, "head.weight", 0, 4, source)
        kind = head_kind(outputs)
        if kind is None:
            raise CheckpointError(
                f"{source} is a head with {outputs} outputs; expected 124 (VSPW), 19 (Cityscapes) or 256 (KITTI)"
            )
        return kind
    if "embeddings" in first:
        raise CheckpointError(f"{source} holds a backbone's weights; name its folder where a backbone is asked for")
    names = ", ".join(repr(name) for name in sorted(state)[:3])
    raise CheckpointError(
        f"{source} holds the weights of no network here (its first names: {names}); "
        "expected a tokenizer, a world model or a head"
    )


def _tokenizer(state: State, source: str) -> DeltaTokConfig:
    def has(part: str) -> bool:
        return any(f".{part}." in name for name in state)

    return DeltaTokConfig(
        width=_size(state, "z_embed.weight", 1, 2, source),
        depth=_depth(state, "encoder_blocks", source),
        qk_norm=has("q_norm"),
        gated_attention=has("attn_gate"),
        swiglu=has("gate_proj"),
    )


def _world(state: State, source: str) -> DeltaWorldConfig:
    dim, width, depth = _predictor(state, source)
    return DeltaWorldConfig(token_dim=dim, width=width, depth=depth, heads=width // 64)


def _dinoworld(state: State, source: str) -> DinoWorldConfig:
    dim, width, depth = _predictor(state, source)
    return DinoWorldConfig(feature_dim=dim, width=width, depth=depth, heads=width // 64)


def _predictor(state: State, source: str) -> tuple[int, int, int]:
    """Return the tokens' width, the queries' width and the depth."""
    dim, width = (_size(state, "predictor.head.weight", axis, 2, source) for axis in (0, 1))
    return dim, width, _depth(state, "predictor.blocks", source)


def _head(state: State, source: str) -> HeadConfig:
    outputs, dim = (_size(state, "head.weight", axis, 4, source) for axis in (0, 1))
    return HeadConfig(dim, outputs)


def _rgb(state: State, source: str) -> RGBHeadConfig:
    width, dim = (_size(state, "decoder_embed.weight", axis, 2, source) for axis in (0, 1))
    return RGBHeadConfig(
        dim=dim,
        width=width,
        depth=_depth(state, "decoder_layers", source),
        heads=min(16, max(1, width // 16)),
        mlp_width=_size(state, "decoder_layers.0.intermediate.dense.weight", 0, 2, source),
        patch_size=math.isqrt(_size(state, "decoder_pred.weight", 0, 2, source) // 3),
        grid=math.isqrt(_size(state, "decoder_pos_embed", 1, 3, source) - 1),
    )


_READERS: Mapping[Kind, Callable[[State, str], Config]] = {
    "tokenizer": _tokenizer,
    "world": _world,
    "dinoworld": _dinoworld,
    "vspw": _head,
    "cityscapes": _head,
    "kitti": _head,
    "rgb": _rgb,
}


def _size(state: State, name: str, axis: int, axes: int, source: str) -> int:
    if name not in state:
        raise CheckpointError(f"{source} lacks {name}, from which a size is read; it is not whole")
    shape = tuple(state[name].shape)
    if len(shape) != axes or not shape[axis]:
        raise CheckpointError(f"{source}: {name} has shape {shape}, expected {axes} axes and no empty one")
    return shape[axis]


def _depth(state: State, blocks: str, source: str) -> int:
    """Return the number of blocks, which are counted from 0 without a gap."""
    pattern = re.compile(rf"{re.escape(blocks)}\.(\d{{1,6}})\.")
    numbers = sorted({int(match[1]) for name in state if (match := pattern.match(name))})
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(
            f"{source} holds {len(numbers)} blocks named {blocks}.N"
            + (f", the last of them {numbers[-1]}" if numbers else "")
            + "; expected all of 0, 1, 2, …: it is not whole"
        )
    return len(numbers)


def _checked(source: str, make: Callable[[], Config]) -> Config:
    """Return the config that `make` makes; the sizes that no network can have are the file's fault."""
    try:
        return make()
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
