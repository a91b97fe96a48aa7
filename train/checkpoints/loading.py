"""Checkpoints: from a file, a run, a folder of weights or a Hub name to a network, or to what it is.

The header of a file of ours says which network it holds; of others kind, sizes and switches are read from the weights.
Every parameter must be there, none left over, and all of their shape; those that are not are named. Networks come back
in eval mode, in float32, on the CPU. ViT-B sizes load in about a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.weights import weights_hash
from deltactl.locations import Location
from deltactl.progress import few
from deltactl.train.checkpoints.files import Contents, plain_names, read_contents
from deltactl.train.checkpoints.headers import read_header
from deltactl.train.networks.kinds import Kind, NetworkT, State
from deltactl.train.networks.known_kinds import kind_of, recognise

Place = str | Path | Location
"""A checkpoint: a file, a run, a folder of weights, a URL of one of them, or a Hub name."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found to fit: its tensors as they are in the file, and what they make."""

    contents: Contents
    kind: Kind[Any]
    config: Any
    network: nn.Module
    """An empty network of this kind and config, on torch's meta device."""

    @classmethod
    def of(cls, network: nn.Module, provenance: Mapping[str, Any]) -> Checkpoint:
        """Return a network in memory as if it had been read from a file that says this of how it came about.

        Raises:
            ValueError: it is of no kind.
        """
        plain = getattr(network, "_orig_mod", network)
        kind, config = kind_of(plain), plain.config
        state = {name: tensor.detach().cpu() for name, tensor in plain_names(plain.state_dict(), "the network").items()}
        contents = Contents("the network", "network", state, {"provenance": provenance}, None, {})
        return cls(contents, kind, config, kind.empty(config))

    @property
    def source(self) -> str:
        """The file that was read."""
        return self.contents.source

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors under the network's names, in the order of the file."""
        return self.contents.state

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the header says about how it came about."""
        return self.contents.provenance

    @property
    def parameters(self) -> int:
        """Number of trained values; running statistics are not counted."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Types of its floating-point tensors."""
        floats = {tensor.dtype for tensor in self.state.values() if tensor.dtype.is_floating_point}
        return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in floats))

    @property
    def differences(self) -> tuple[str, ...]:
        """How it is not the published network; empty if it is."""
        return self.kind.differences(self.config)

    @cached_property
    def content_hash(self) -> str:
        """The hash of the network, in hexadecimal.

        It covers kind, settings that count once training is over, and the weights as float32: equal for the same
        network in a training checkpoint, an export or a download, and equal to `network_hash` of the loaded network.
        """
        return _hash(self.kind, self.config, self.state)

    def load(self) -> nn.Module:
        """Return the network, in eval mode, in float32, on the CPU.

        Raises:
            CheckpointError: its values are not finite.
        """
        for name, tensor in self.state.items():
            # The sum is NaN or infinite when one value is, and costs less than looking at each.
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor.sum(dtype=torch.float64)):
                raise CheckpointError(
                    f"{self.source}: {name} holds NaN or infinite values: the training that wrote it diverged; "
                    "name an earlier checkpoint"
                )
        state = {name: _float32(tensor).contiguous() for name, tensor in self.state.items()}
        network = self.kind.empty(self.config)
        network.load_state_dict(state, assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):  # a buffer that is computed, not loaded
            network = self.kind.build(self.config)
            network.load_state_dict(state)
        return network.eval()


def read(place: Place, *expected: Kind[Any]) -> Checkpoint:
    """Read a checkpoint of any kind; if it has no header, `expected` are tried before other kinds.

    Raises:
        CheckpointError: it is absent, damaged, carries code, is of no kind here, or its parameters do not fit.
        HubError: the Hub does not hand it out.
    """
    contents = read_contents(place)
    state, source = contents.state, contents.source
    if contents.header is not None:
        kind, config = read_header(contents.header, state, source)
    else:
        kind, config = recognise(state, source, expected)
    checkpoint = Checkpoint(contents, kind, config, kind.empty(config))
    if problems := _misfits(state, checkpoint.network.state_dict()):
        raise CheckpointError(f"{source} does not fit the {kind.title} that its sizes describe; {'; '.join(problems)}")
    if contents.content_hash not in (None, checkpoint.content_hash):
        raise CheckpointError(
            f"{source} is damaged: its weights do not match the hash it carries; write or fetch it again"
        )
    return checkpoint


def read_kind(place: Place, *kinds: Kind[Any]) -> Checkpoint:
    """Read a checkpoint that holds one of these kinds; of any kind where none is given.

    Raises:
        CheckpointError: as `read`; it holds another kind.
        HubError: the Hub does not hand it out.
    """
    checkpoint = read(place, *kinds)
    if kinds and checkpoint.kind not in kinds:
        raise CheckpointError(f"{checkpoint.source} is a {checkpoint.kind.title}; a {kinds[0].title} was expected here")
    return checkpoint


def load(place: Place, *kinds: Kind[NetworkT]) -> NetworkT:
    """Return the network that a checkpoint holds, in eval mode; with `kinds`, one of them.

    Raises:
        CheckpointError: as `read_kind`; its values are not finite.
        HubError: the Hub does not hand it out.
    """
    return cast(NetworkT, read_kind(place, *kinds).load())


def network_hash(network: nn.Module) -> str:
    """Return the hash of a network in memory; see `Checkpoint.content_hash`."""
    plain = getattr(network, "_orig_mod", network)
    return _hash(kind_of(plain), plain.config, plain_names(plain.state_dict(), "the network"))


def _hash(kind: Kind[Any], config: Any, state: State) -> str:
    settings = {"kind": kind.name, **kind.identity(config)}
    return weights_hash(settings, ((name, _float32(tensor)) for name, tensor in state.items()))


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.is_floating_point else tensor


def _misfits(state: State, expected: State) -> list[str]:
    """Return one phrase each for missing, left-over and misshapen parameters; none when all fit."""

    def form(tensor: Tensor) -> tuple[object, ...]:
        return tuple(tensor.shape), None if tensor.dtype.is_floating_point else tensor.dtype

    def text(tensor: Tensor) -> str:
        kind = "" if tensor.dtype.is_floating_point else f" of {str(tensor.dtype).removeprefix('torch.')}"
        return f"{tuple(tensor.shape)}{kind}"

    shared = [name for name in expected if name in state]
    found = {
        "missing": [name for name in expected if name not in state],
        "left over": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} is {text(state[name])}, expected {text(expected[name])}"
            for name in shared
            if form(state[name]) != form(expected[name])
        ],
    }
    return [f"{problem} ({len(names)}): {few(names, 3)}" for problem, names in found.items() if names]
