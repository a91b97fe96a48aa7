"""Checkpoints: from a file, a run, a folder of weights or a Hub name to a network, or to what it is.

Every reader here takes sizes, depth and switches from the weights, checks that every parameter is there, none is left
over and all have their shape, and names those that do not. Networks come back in eval mode, in float32, on the CPU.
ViT-B sizes load in about a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from deltactl.errors import CheckpointError
from deltactl.featurize.weights import weights_hash
from deltactl.locations import Location
from deltactl.train.architecture import (
    PUBLISHED,
    TITLES,
    Config,
    Kind,
    apply_header,
    differences,
    empty,
    kind_and_config,
    misfits,
    settings_of,
)
from deltactl.train.checkpoint_files import Contents, plain_names, read_contents
from deltactl.train.deltatok import DeltaTok
from deltactl.train.deltaworld import DeltaWorld
from deltactl.train.dinoworld import DinoWorld
from deltactl.train.heads import DepthHead, SegmentationHead
from deltactl.train.rgb_head import RGBHead
from deltactl.train.rope import PatchRope
from deltactl.train.sizes import infer

Place = str | Path | Location
"""A checkpoint: a file, a run, a folder of weights, a URL of one of them, or a Hub name."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is."""

    source: str
    """The file that was read."""
    container: str
    """How its weights are packed, in words."""
    kind: Kind
    config: Config
    parameters: int
    """Number of trained values; running statistics are not counted."""
    dtypes: tuple[str, ...]
    """Types of its floating-point tensors."""
    differences: tuple[str, ...]
    """How it is not the published network; empty where it is."""
    content_hash: str
    """See `content_hash`."""
    progress: Mapping[str, int]
    """`epoch` and `step`, of a training checkpoint."""
    provenance: Mapping[str, Any]
    """What its header says about how it came about."""

    @property
    def matches_published(self) -> bool:
        """Whether sizes and switches are those of the paper."""
        return not self.differences


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found to fit: its tensors as they are in the file, and what they make."""

    contents: Contents
    kind: Kind
    config: Config
    network: nn.Module
    """An empty network of this kind and config, on torch's meta device."""

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors under the network's names, in the order of the file."""
        return self.contents.state

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the header says about how it came about."""
        return self.contents.provenance

    def info(self) -> CheckpointInfo:
        """Return what it is."""
        floats = [tensor.dtype for tensor in self.state.values() if tensor.dtype.is_floating_point]
        return CheckpointInfo(
            source=self.contents.source,
            container=self.contents.container,
            kind=self.kind,
            config=self.config,
            parameters=sum(parameter.numel() for parameter in self.network.parameters()),
            dtypes=tuple(sorted({str(dtype).removeprefix("torch.") for dtype in floats})),
            differences=differences(self.config, PUBLISHED[self.kind]),
            content_hash=_hash(self.kind, self.config, self.state),
            progress=self.contents.progress,
            provenance=self.provenance,
        )


def read(place: Place) -> Checkpoint:
    """Read a checkpoint of any kind.

    Raises:
        CheckpointError: it is absent, damaged, carries code, is of no kind here, or its parameters do not fit.
        HubError: the Hub does not hand it out.
    """
    contents = read_contents(place)
    kind, config = infer(contents.state, contents.source)
    if contents.header is not None:
        config = apply_header(contents.header, kind, config, contents.source)
    network = empty(kind, config)
    if problems := misfits(contents.state, network.state_dict()):
        raise CheckpointError(
            f"{contents.source} does not fit the {TITLES[kind]} that its sizes describe; {'; '.join(problems)}"
        )
    if contents.content_hash not in (None, _hash(kind, config, contents.state)):
        raise CheckpointError(
            f"{contents.source} is damaged: its weights do not match the hash it carries; write or fetch it again"
        )
    return Checkpoint(contents, kind, config, network)


def identify(place: Place) -> CheckpointInfo:
    """Return what a checkpoint is, once it is known to be whole; raises like `read`."""
    return read(place).info()


def load_tokenizer(place: Place) -> DeltaTok:
    """Return the tokenizer that a checkpoint holds, in eval mode; raises like `read`, or when it is something else."""
    return cast(DeltaTok, _load(place, "tokenizer"))


def load_world(place: Place) -> DeltaWorld:
    """Return the world model (DeltaWorld) that a checkpoint holds; see `load_tokenizer`."""
    return cast(DeltaWorld, _load(place, "world"))


def load_dinoworld(place: Place) -> DinoWorld:
    """Return the baseline world model (DINO-world) that a checkpoint holds; see `load_tokenizer`."""
    return cast(DinoWorld, _load(place, "dinoworld"))


def load_head(place: Place, kind: Kind) -> SegmentationHead | DepthHead | RGBHead:
    """Return the head for `vspw`, `cityscapes`, `kitti` or `rgb` that a checkpoint holds; see `load_tokenizer`."""
    if kind not in ("vspw", "cityscapes", "kitti", "rgb"):
        raise ValueError(f"kind is {kind!r}, expected 'vspw', 'cityscapes', 'kitti' or 'rgb'")
    return cast(SegmentationHead | DepthHead | RGBHead, _load(place, kind))


def content_hash(place: Place) -> str:
    """Return the hash of a checkpoint's network, in hexadecimal.

    It covers kind, settings that count once training is over, and the weights as float32: equal for the same network
    in a training checkpoint, an export or a download, and equal to `network_hash` of the loaded network.
    """
    checkpoint = read(place)
    return _hash(checkpoint.kind, checkpoint.config, checkpoint.state)


def network_hash(network: nn.Module) -> str:
    """Return the hash of a network in memory; see `content_hash`."""
    return _hash(*kind_and_config(network), plain_names(network.state_dict(), "the network"))


def _hash(kind: Kind, config: Config, state: Mapping[str, Tensor]) -> str:
    settings = {"kind": kind, **settings_of(config)}
    return weights_hash(settings, ((name, _float32(tensor)) for name, tensor in state.items()))


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.is_floating_point else tensor


def _load(place: Place, kind: Kind) -> nn.Module:
    checkpoint = read(place)
    source = checkpoint.contents.source
    if checkpoint.kind != kind:
        raise CheckpointError(f"{source} is a {TITLES[checkpoint.kind]}; a {TITLES[kind]} was expected here")
    for name, tensor in checkpoint.state.items():
        # The sum is NaN or infinite when one value is, and costs less than looking at each.
        if tensor.dtype.is_floating_point and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise CheckpointError(
                f"{source}: {name} holds NaN or infinite values: the training that wrote it diverged; "
                "name an earlier checkpoint"
            )
    network = checkpoint.network
    state = {name: _float32(tensor).contiguous() for name, tensor in checkpoint.state.items()}
    network.load_state_dict(state, assign=True)
    if isinstance(network, DeltaTok):
        # Its table of frequencies is computed, not loaded, and was not computed on the meta device.
        network.rope = PatchRope(network.config.rope_augment)
    assert not any(buffer.is_meta for buffer in network.buffers())
    return network.eval()
