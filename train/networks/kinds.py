"""What a kind of network is: one frozen record, at the end of the file that describes the network.

A record says how a network is called, made from its config, and known by its weights; whatever reads, writes, compares
or describes checkpoints asks it. `registry.NETWORKS` lists the records by name; other packages bring their own through
entry points of the group `deltactl.networks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deltactl.errors import CheckpointError

State = Mapping[str, Tensor]
"""Parameters and buffers by name."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)
KIND = "_deltactl_kind"
"""The attribute in which a network keeps the record that made it."""


@dataclass(frozen=True)
class Kind(Generic[NetworkT]):
    """A kind of network that checkpoints hold. There is one of each name in a process; copies of a network share it."""

    name: str
    """What headers and settings call it."""

    title: str
    """What messages call it, after "a"."""

    network: type[NetworkT]
    """Its class. It takes a config alone, a frozen dataclass of plain values that raises ValueError for sizes that
    cannot be, and keeps it as `config`. The config of a head has `dim`, the width of the features."""

    default: Any
    """The config of a new one if nothing else is said; of the paper's networks the published sizes (ViT-B)."""

    infer: Callable[[Shapes], Any] | None = field(default=None, compare=False)
    """Returns the config of weights without a header of ours, None if they are of another kind. Left out, such
    weights are not read, and the sizes that a header says are taken for true."""

    paper: bool = False
    """Whether it is a network of the paper."""

    dataset: str | None = None
    """The data set whose labels a head predicts."""

    hidden: tuple[str, ...] = ()
    """Settings that the weights do not show; the header's count. With other values the same parameters mean something
    else."""

    training_only: tuple[str, ...] = ()
    """Settings that change nothing once training is over."""

    unpublished: tuple[str, ...] = ()
    """Sizes that the paper leaves to its weights."""

    added: tuple[str, ...] = ()
    """Settings that the kind did not have at first. With their default values hashes and headers do not say them, so
    that they are those of networks that were made before, and an earlier version reads the file."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Kind[NetworkT]:
        return self

    def build(self, config: Any) -> NetworkT:
        """Return a network of these sizes, with starting weights."""
        network = self.network(config)
        object.__setattr__(network, KIND, self)  # past nn.Module, which looks for parameters
        return network

    def empty(self, config: Any) -> NetworkT:
        """Return a network without memory behind its weights (torch's meta device): names and shapes."""
        with torch.device("meta"), _WithoutInit():
            return self.build(config)

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings that count once training is over."""
        return {name: value for name, value in asdict(config).items() if name not in self.training_only}

    def said(self, config: Any) -> dict[str, Any]:
        """Return the settings that headers say: all but those of `added` that have the default value."""
        usual = asdict(self.default)
        values = asdict(config).items()
        return {name: value for name, value in values if name not in self.added or value != usual[name]}

    def identity(self, config: Any) -> dict[str, Any]:
        """Return the settings that a hash of the network covers: what is said and counts once training is over."""
        return {name: value for name, value in self.said(config).items() if name not in self.training_only}

    def differences(self, config: Any) -> tuple[str, ...]:
        """Return one phrase for each setting in which a network is not the published one."""
        if not self.paper:
            return ("the paper has no such network",)
        published = asdict(self.default)
        return tuple(
            f"{name} {value} (published: {'none' if published[name] is None else published[name]})"
            for name, value in self.settings(config).items()
            if value != published[name] and name not in self.unpublished
        )


class _WithoutInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`: without memory it does nothing, but would load torch's compiler, for a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class Shapes:
    """Names and shapes of a file's weights, from which a kind and its sizes are read."""

    def __init__(self, state: State, source: str) -> None:
        self._state = state
        self._source = source
        self._first = {name.split(".", 1)[0] for name in state}

    def begin_with(self, *parts: str) -> bool:
        """Whether the first part of any name is one of these."""
        return not self._first.isdisjoint(parts)

    def have(self, part: str) -> bool:
        """Whether any name has this part (or dotted parts) in it, and goes on after it."""
        return any(f".{part}." in f".{name}" for name in self._state)

    def size(self, name: str, axis: int, *, axes: int) -> int:
        """Return the length of an axis.

        Raises:
            CheckpointError: the parameter is absent or of another form.
        """
        if name not in self._state:
            raise CheckpointError(f"{self._source} lacks {name}, from which a size is read; it is not whole")
        shape = tuple(self._state[name].shape)
        if len(shape) != axes or not shape[axis]:
            raise CheckpointError(f"{self._source}: {name} has shape {shape}, expected {axes} axes and no empty one")
        return shape[axis]

    def depth(self, blocks: str) -> int:
        """Return the number of blocks `blocks.0`, `blocks.1`, ….

        Raises:
            CheckpointError: there is none, or a gap.
        """
        pattern = re.compile(rf"{re.escape(blocks)}\.(\d{{1,6}})\.")
        numbers = sorted({int(match[1]) for name in self._state if (match := pattern.match(name))})
        if not numbers or numbers != list(range(len(numbers))):
            raise CheckpointError(
                f"{self._source} holds {len(numbers)} blocks named {blocks}.N"
                + (f", the last of them {numbers[-1]}" if numbers else "")
                + "; expected all of 0, 1, 2, …: it is not whole"
            )
        return len(numbers)
