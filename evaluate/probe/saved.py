"""A probe as a file: safetensors with its weights, and in the header its classes and what it may be applied to.

    weight (C, L), bias (C,), mean (L,), scale (L,)    float64
    metadata `deltactl`: format, kind, label, pooling, l2, classes, training_videos, facts, store, content_hash

The probabilities of a vector x are softmax(weight · (x - mean) / scale + bias). `facts` are those in which a store must
agree with the one that the probe was fitted on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.evaluate.probe.logistic import Standard, Weights
from deltactl.evaluate.probe.vectors import OF_ALL_FRAMES, POOLINGS
from deltactl.featurize.backbones.weights import open_safetensors, weights_hash
from deltactl.featurize.store.reader import ClipStore
from deltactl.fields import Fields
from deltactl.locations import Location, storage_errors
from deltactl.reading import parse_json
from deltactl.train.checkpoints.files import as_file
from deltactl.train.checkpoints.headers import HEADER
from deltactl.train.data.sets import facts_of

FILE = "probe.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Probe:
    """A linear map from the vectors of clips to the probabilities of classes."""

    weights: Weights
    standard: Standard
    classes: tuple[str, ...]
    training_videos: tuple[int, ...]
    """How many videos of each class it was fitted on."""
    label: str
    """The column that it tells."""
    pooling: str
    l2: float
    facts: Mapping[str, Any]
    """What a store must have in common with the one that it was fitted on."""
    store: str
    """Hash of that one's identity."""

    @property
    def content_hash(self) -> str:
        """Hash of the weights, and of what they tell of what."""
        return weights_hash(self._said(), self._tensors().items())

    def save(self, file: Path) -> None:
        """Write the file."""
        header = {"format": FORMAT, "kind": "probe", **self._said(), "content_hash": self.content_hash}
        save_file(self._tensors(), file, {HEADER: json.dumps(header)})

    def _said(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "pooling": self.pooling,
            "l2": self.l2,
            "classes": list(self.classes),
            "training_videos": list(self.training_videos),
            "facts": dict(self.facts),
            "store": self.store,
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "weight": self.weights.weight.cpu().contiguous(),
            "bias": self.weights.bias.cpu(),
            "mean": self.standard.mean,
            "scale": self.standard.scale,
        }


def facts_for(store: ClipStore, pooling: str) -> dict[str, Any]:
    """Return what a store must have in common with another one for a probe of this pooling."""
    return facts_of(store, same_frames=pooling == OF_ALL_FRAMES)


def read_probe(place: str) -> Probe:
    """Return a probe from its file, or from the folder that `deltactl probe` wrote.

    Raises:
        CheckpointError: there is none, or it is no probe.
        DamagedError: it is not as it was written.
    """
    location = Location.of(place)
    if FILE in location.list():
        location = location / FILE
    elif not location.name.endswith(".safetensors") or not location.exists():
        raise CheckpointError(
            f"--probe {place} holds no {FILE}; expected a folder that deltactl probe wrote, or that file of it"
        )
    with storage_errors(location, "read"), as_file(location) as path, open_safetensors(path, str(location)) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    try:
        header = parse_json(metadata.get(HEADER, ""))
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("kind") != "probe":
        raise CheckpointError(f"{location} is no probe; expected the {FILE} of deltactl probe")
    said = Fields(header, location, HEADER, "; fit it again")
    if (found := said.integer("format")) != FORMAT:
        raise said.wrong("format", found, f"{FORMAT}, or a newer deltactl")
    classes, pooling = tuple(said.texts("classes")), said.text("pooling")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.dtype == torch.float64}
    width = (shapes.get("mean") or (0,))[0]
    wanted = {"weight": (len(classes), width), "bias": (len(classes),), "mean": (width,), "scale": (width,)}
    if shapes != wanted or pooling not in POOLINGS or len(classes) < 2:
        raise CheckpointError(f"{location} is damaged: its tensors are {shapes}, {wanted} in float64 were expected")
    probe = Probe(
        Weights(tensors["weight"], tensors["bias"]),
        Standard(tensors["mean"], tensors["scale"]),
        classes,
        tuple(said.integers("training_videos", len(classes))),
        label=said.text("label"),
        pooling=pooling,
        l2=said.number("l2"),
        facts=said.nested("facts").values,
        store=said.text("store"),
    )
    if probe.content_hash != said.text("content_hash"):
        raise said.wrong("content_hash", said.text("content_hash"), f"{probe.content_hash}, that of what it holds")
    return probe
