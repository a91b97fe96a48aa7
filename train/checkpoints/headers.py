"""The header of a checkpoint: which network the file holds, and how that came about.

    {"format": 1, "kind": NAME, "config": {…}, "provenance": {…}}

Plain JSON values, under the key `deltactl` of a training checkpoint, of safetensors' metadata or of `config.json`.
Settings that a kind did not have at first (`Kind.added`) are said only where they are not the default. The header comes
before the weights, which do not show everything (`Kind.hidden`), but must not contradict them: sizes that it claims are
compared with theirs before a network is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from deltactl.errors import CheckpointError, ConfigError
from deltactl.redaction import redacted
from deltactl.train.networks.kinds import Kind, Shapes, State
from deltactl.train.networks.known_kinds import kind_named, kind_of, recognise

HEADER = "deltactl"
"""The key under which a file of ours says what it holds."""

HEADER_FORMAT = 1


def header_of(network: nn.Module, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a checkpoint of this network should hold under `HEADER`."""
    network = getattr(network, "_orig_mod", network)
    return make_header(kind_of(network), network.config, provenance)


def make_header(kind: Kind[Any], config: Any, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the header of a network of this kind and config."""
    return {
        "format": HEADER_FORMAT,
        "kind": kind.name,
        "config": kind.said(config),
        "provenance": redacted(dict(provenance or {})),
    }


def read_header(header: object, state: State, source: str) -> tuple[Kind[Any], Any]:
    """Return the kind and config that a header says.

    Raises:
        CheckpointError: it is damaged, of another format, or contradicts the weights.
    """
    if not isinstance(header, Mapping) or not isinstance(header.get("config"), Mapping):
        raise CheckpointError(f"{source}: its {HEADER!r} header is damaged; expected an object with a config")
    if header.get("format") != HEADER_FORMAT:
        raise CheckpointError(
            f"{source}: its {HEADER!r} header has format {header.get('format')!r}, this version reads "
            f"{HEADER_FORMAT}; install a newer deltactl"
        )
    try:
        kind = kind_named(str(header.get("kind")))
    except ConfigError as error:
        raise CheckpointError(f"{source}: its header says {header.get('kind')!r}, but {error}") from error
    try:
        return kind, _config_said(kind, header["config"], state, source)
    except ValueError as error:
        raise CheckpointError(f"{source}: its header is of no use: {error}") from error


def _config_said(kind: Kind[Any], said: Mapping[str, Any], state: State, source: str) -> Any:
    """Return the config with the settings that the header says.

    Where the weights show a setting, both must agree: a header that claims a billion blocks would take the memory.
    """
    shown = kind.infer(Shapes(state, source)) if kind.infer is not None else None
    if kind.infer is not None and shown is None:
        other, _ = recognise(state, source)
        raise CheckpointError(f"{source}: its header says {kind.name!r}, its weights are those of a {other.title}")
    known = asdict(kind.default if shown is None else shown)
    names = sorted(said.keys() & known.keys())
    for name in names:
        if type(said[name]) is not type(known[name]):
            raise CheckpointError(f"{source}: its header says {name} = {said[name]!r}, of the wrong type")
        if shown is not None and said[name] != known[name] and name not in kind.hidden:
            raise CheckpointError(f"{source}: its header says {name} = {said[name]!r}, its weights {known[name]!r}")
    return replace(kind.default if shown is None else shown, **{name: said[name] for name in names})


def with_header(state: Mapping[str, Any], kind: Kind[Any], config: Any, header: object) -> dict[str, Any]:
    """Return what to save of a network: its bare weights, as published, with the header if they do not say all."""
    with contextlib.suppress(CheckpointError):  # weights of a kind that no file without a header is taken for
        found, shown = recognise(state, kind.title)
        if found == kind and kind.settings(shown) == kind.settings(config):
            return dict(state)
    return {"state_dict": dict(state), HEADER: header}
