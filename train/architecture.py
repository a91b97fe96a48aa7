"""The kinds of network that checkpoints hold: their configs, their names and shapes, and the published sizes.

A checkpoint that deltactl writes carries a *header* with kind, config and provenance, because weights do not show
everything (see `UNREADABLE`). Nothing here allocates memory for weights but `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltactl.errors import CheckpointError
from deltactl.redaction import redacted
from deltactl.train.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.dinoworld import DinoWorld, DinoWorldConfig
from deltactl.train.heads import DepthHead, SegmentationHead
from deltactl.train.rgb_head import RGBHead, RGBHeadConfig

Kind = Literal["tokenizer", "world", "dinoworld", "vspw", "cityscapes", "kitti", "rgb"]
State = Mapping[str, Tensor]

HEADER = "deltactl"
"""The key under which a file of ours says what it holds; see `header_of`."""

HEADER_FORMAT = 1


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a segmentation or depth head."""

    dim: int
    """Width of the features."""

    outputs: int
    """Classes, or depth bins."""


Config = DeltaTokConfig | DeltaWorldConfig | DinoWorldConfig | HeadConfig | RGBHeadConfig

TITLES: Mapping[Kind, str] = {
    "tokenizer": "tokenizer (DeltaTok)",
    "world": "world model (DeltaWorld)",
    "dinoworld": "world model (DINO-world)",
    "vspw": "segmentation head for VSPW",
    "cityscapes": "segmentation head for Cityscapes",
    "kitti": "depth head for KITTI",
    "rgb": "RGB head",
}

PUBLISHED: Mapping[Kind, Config] = {
    "tokenizer": DeltaTokConfig(),
    "world": DeltaWorldConfig(),
    "dinoworld": DinoWorldConfig(),
    "vspw": HeadConfig(768, 124),
    "cityscapes": HeadConfig(768, 19),
    "kitti": HeadConfig(768, 256),
    "rgb": RGBHeadConfig(),
}
"""The sizes of the paper, ViT-B."""

HEAD_KINDS: tuple[Kind, ...] = ("vspw", "cityscapes", "kitti")
"""The heads that one convolution makes, told apart by its outputs."""

UNREADABLE: Mapping[Kind, tuple[str, ...]] = {"tokenizer": ("delta", "rope_augment"), "rgb": ("heads",)}
"""Settings that the weights do not show, so that the header's count: without delta, or with other heads, the same
parameters mean something else. A file without a header is taken for what is published (see `sizes`)."""

UNPUBLISHED = ("mlp_width", "grid")
"""Sizes of the RGB head that the paper leaves to its weights."""

TRAINING_ONLY = ("rope_augment",)
"""Settings that change nothing once training is over."""


def build(kind: Kind, config: Config) -> nn.Module:
    """Return a network of this kind and these sizes, with starting weights."""
    match config:
        case DeltaTokConfig():
            return DeltaTok(config)
        case DeltaWorldConfig():
            return DeltaWorld(config)
        case DinoWorldConfig():
            return DinoWorld(config)
        case RGBHeadConfig():
            return RGBHead(config)
        case HeadConfig():
            head = DepthHead if kind == "kitti" else SegmentationHead
            return head(config.dim, config.outputs)


def kind_and_config(network: nn.Module) -> tuple[Kind, Config]:
    """Return what `build` would need to make this network; ValueError for a network of no kind here."""
    match getattr(network, "_orig_mod", network):  # what torch.compile wraps
        case DeltaTok() as network:
            return "tokenizer", network.config
        case DeltaWorld() as network:
            return "world", network.config
        case DinoWorld() as network:
            return "dinoworld", network.config
        case RGBHead() as network:
            return "rgb", network.config
        case DepthHead() | SegmentationHead() as network:
            config = HeadConfig(network.head.in_channels, network.head.out_channels)
            kind = head_kind(config.outputs)
            if kind is not None and (kind == "kitti") == isinstance(network, DepthHead):
                return kind, config
    raise ValueError(f"{type(network).__name__} is no network that checkpoints are made of")


def head_kind(outputs: int) -> Kind | None:
    """Return which of `HEAD_KINDS` has so many outputs; None for none."""
    return next((kind for kind in HEAD_KINDS if asdict(PUBLISHED[kind])["outputs"] == outputs), None)


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that count once training is over."""
    return {name: value for name, value in asdict(config).items() if name not in TRAINING_ONLY}


# --- the header ------------------------------------------------------------------------------------------------------


def header_of(network: nn.Module, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a checkpoint of this network should hold under `HEADER`: plain JSON values.

    A training checkpoint stores it as a top-level entry, so that every setting survives, also those that weights do
    not show: `{"format": 1, "kind": …, "config": {…}, "provenance": {…}}`.
    """
    return make_header(*kind_and_config(network), provenance)


def make_header(kind: Kind, config: Config, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the header of a network of this kind and config; see `header_of`."""
    return {
        "format": HEADER_FORMAT,
        "kind": kind,
        "config": asdict(config),
        "provenance": redacted(dict(provenance or {})),
    }


def apply_header(header: object, kind: Kind, config: Config, source: str) -> Config:
    """Return the config with what the header adds; CheckpointError where it contradicts the weights."""
    if not isinstance(header, Mapping) or not isinstance(header.get("config"), Mapping):
        raise CheckpointError(f"{source}: its {HEADER!r} header is damaged; expected an object with a config")
    if header.get("format") != HEADER_FORMAT:
        raise CheckpointError(
            f"{source}: its {HEADER!r} header has format {header.get('format')!r}, this version reads "
            f"{HEADER_FORMAT}; install a newer deltactl"
        )
    if header.get("kind") != kind:
        raise CheckpointError(
            f"{source}: its header says {header.get('kind')!r}, its weights are those of a {TITLES[kind]}"
        )
    said, read = header["config"], asdict(config)
    known = {field.name for field in fields(config)}
    for name in sorted(said.keys() & known):
        if type(said[name]) is not type(read[name]):
            raise CheckpointError(f"{source}: its header says {name} = {said[name]!r}, of the wrong type")
        if said[name] != read[name] and name not in UNREADABLE.get(kind, ()):
            raise CheckpointError(f"{source}: its header says {name} = {said[name]!r}, its weights {read[name]!r}")
    try:
        return replace(config, **{name: said[name] for name in said.keys() & known})
    except ValueError as error:
        raise CheckpointError(f"{source}: its header is of no use: {error}") from error


# --- comparing -------------------------------------------------------------------------------------------------------


def empty(kind: Kind, config: Config) -> nn.Module:
    """Return a network without memory behind its weights (torch's meta device): for names and shapes only."""
    with torch.device("meta"):
        return build(kind, config)


def misfits(state: State, expected: State) -> list[str]:
    """Return one phrase each for missing, left-over and misshapen parameters; none when all fit."""
    shapes = [
        f"{name} is {_form(state[name])}, expected {_form(expected[name])}"
        for name in expected
        if name in state and not _fits(state[name], expected[name])
    ]
    found = {
        "missing": [name for name in expected if name not in state],
        "left over": [name for name in state if name not in expected],
        "misshapen": shapes,
    }
    return [f"{problem} ({len(names)}): {_few(names)}" for problem, names in found.items() if names]


def differences(config: Config, published: Config) -> tuple[str, ...]:
    """Return one phrase for each setting in which a network is not the published one."""
    there = asdict(published)
    return tuple(
        f"{name} {value} (published: {there[name]})"
        for name, value in settings_of(config).items()
        if value != there[name] and name not in UNPUBLISHED
    )


def _fits(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.dtype.is_floating_point == expected.dtype.is_floating_point


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.dtype.is_floating_point else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
