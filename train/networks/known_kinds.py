"""The kinds of network that are known: by name, by a network at hand, by weights without a header."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

from deltactl.datasets.known import labelled_names, labelled_set, says_itself
from deltactl.errors import CheckpointError
from deltactl.registry import NETWORKS
from deltactl.tasks.known import task_of
from deltactl.train.networks.kinds import KIND, Kind, Shapes, State


def kinds() -> Iterator[Kind[Any]]:
    """Yield all kinds of network: those with a record of their own, then the heads of the data sets."""
    yield from NETWORKS.each(Kind)
    for name in labelled_names():
        yield head_of(name)


def kind_named(name: str) -> Kind[Any]:
    """Return the kind of this name; a data set's name is that of its head.

    Raises:
        ConfigError: there is none.
    """
    return head_of(name) if name in labelled_names() or says_itself(name) else NETWORKS.get(name, Kind)


def head_of(dataset: str) -> Kind[Any]:
    """Return the kind of head that a data set's task gives it.

    Raises:
        ConfigError: there is no such set or task, or the set has no labels.
    """
    return head_named(labelled_set(dataset).said_as)


@functools.cache
def head_named(dataset: str) -> Kind[Any]:
    """Return the kind of head of a data set by the name that files say; see `head_of`."""
    return task_of(dataset).head(labelled_set(dataset))


def heads_for(dataset: str) -> tuple[Kind[Any], ...]:
    """Return the kinds of head for a data set, its own first."""
    own = head_of(dataset)
    return (own, *(kind for kind in NETWORKS.each(Kind) if kind.dataset == own.dataset))


def kind_of(network: nn.Module) -> Kind[Any]:
    """Return the kind of a network, by what made it, else by its class and weights.

    Raises:
        ValueError: it is of no kind.
    """
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    if isinstance(made := vars(network).get(KIND), Kind):
        return made
    shapes = Shapes(network.state_dict(), type(network).__name__)
    for kind in kinds():
        if type(network) is kind.network and kind.infer is not None and kind.infer(shapes) is not None:
            return kind
    raise ValueError(f"{type(network).__name__} is no network that checkpoints are made of")


def recognise(state: State, source: str, first: tuple[Kind[Any], ...] = ()) -> tuple[Kind[Any], Any]:
    """Return kind and config of the network that weights without a header belong to; `first` are asked before others.

    Raises:
        CheckpointError: they are of no kind, a parameter that tells a size is missing, or no network has such sizes.
    """
    shapes = Shapes(state, source)
    for kind in (*first, *kinds()):
        if kind.infer is None:
            continue
        try:
            config = kind.infer(shapes)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
        if config is not None:
            return kind, config
    if shapes.begin_with("embeddings"):
        raise CheckpointError(f"{source} holds a backbone's weights; name its folder where a backbone is asked for")
    if shapes.begin_with("bn") and shapes.begin_with("head"):
        heads = [f"{kind.default.outputs} ({kind.title})" for kind in kinds() if hasattr(kind.default, "outputs")]
        raise CheckpointError(
            f"{source} is a head with {shapes.size('head.weight', 0, axes=4)} outputs; expected {', '.join(heads)}"
        )
    names = ", ".join(repr(name) for name in sorted(state)[:3])
    raise CheckpointError(
        f"{source} holds the weights of no network here (its first names: {names}); "
        "expected a tokenizer, a world model or a head"
    )


# A network that goes to another process takes the name of its kind along, not the functions.
copyreg.pickle(Kind, lambda kind: (kind_named, (kind.name,)))
