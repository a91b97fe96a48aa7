"""What a network was trained on, written down with its checkpoint and read again by whatever uses it.

A network sees sense only in what it was trained on: frames of one size, some seconds apart, behind one backbone. A
training run writes that to the header of its checkpoints (`to_json`, under `trained`), where exports keep it; its
backbone's place is in the run's `config.yaml`. Published weights say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.artifacts import hash_told
from deltactl.configs.base import ConfigT
from deltactl.configs.follow import Fact, follow, is_set, value_of
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.training import RUN_CONFIG
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.hub import is_hub_name
from deltactl.featurize.backbones.known import split
from deltactl.featurize.store.reader import ClipStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.train.checkpoints.files import find, read_contents
from deltactl.train.checkpoints.resume_point import FOLDER

LOOKED_AT = 256
"""Clips whose times tell the steps of a set, of one shard."""


@dataclass(frozen=True)
class Steps:
    """Seconds between the frames of training clips."""

    least: float
    """A twentieth is shorter, but for frames that are shown twice."""
    middle: float
    most: float
    """A twentieth is longer."""

    @classmethod
    def over(cls, steps: Sequence[Steps | None], weights: Sequence[float]) -> Steps | None:
        """Return the steps of several sets with weights: the middle is that of the heaviest one that has steps."""
        known = [(weight, each) for each, weight in zip(steps, weights, strict=True) if each is not None]
        if not known:
            return None
        heaviest = max(known, key=lambda pair: pair[0])[1]
        return cls(min(each.least for _, each in known), heaviest.middle, max(each.most for _, each in known))

    def nearest(self, seconds: float) -> float:
        """Return the time between frames that training saw, and that is nearest to another one."""
        return min(max(seconds, self.least), self.most)


@dataclass(frozen=True)
class Trained:
    """What a network was trained on; None if its checkpoint does not say."""

    size: FrameSize | None = None
    """Its frames, in pixels."""
    steps: Steps | None = None
    backbone: str | None = None
    """Name on the Hub of the backbone behind it, or (for a run) its folder, if that is still there."""

    def to_json(self) -> dict[str, Any]:
        """Return what goes to a checkpoint's header: no paths of the machine it was trained on."""
        steps = None if self.steps is None else [self.steps.least, self.steps.middle, self.steps.most]
        name = self.backbone if self.backbone is not None and is_hub_name(split(self.backbone).place) else None
        return {"size": None if self.size is None else self.size.value, "step_seconds": steps, "backbone": name}

    def facts(self, place: object) -> list[Fact]:
        """Return what a network's user must do alike."""
        known = {"size": self.size, "backbone": self.backbone}
        return [Fact(name, value, f"the training of {place}") for name, value in known.items() if value is not None]


def steps_of(data: ClipStore | ShardSet, frames_per_step: int = 1) -> Steps | None:
    """Return the seconds between the steps of a set's clips, by those of one shard; None for single steps.

    A step of shards is so many frames.
    """
    times: list[list[float]]
    if isinstance(data, ShardSet):
        unit, clips = data.units[0], RandomAccess(data)
        whole = [list(clips.read(unit, key, ())[0].times) for key in clips.keys(unit)[:LOOKED_AT]]
        times = [each[frames_per_step - 1 :: frames_per_step] for each in whole]
    else:
        first = data.unit_of(0)
        samples = [sample for sample in range(min(len(data), LOOKED_AT)) if data.unit_of(sample) == first]
        times = data.times(samples).tolist()
    steps = np.concatenate([np.diff(each) for each in times]) if times else np.zeros(0)
    steps = steps[steps > 0]
    if not len(steps):
        return None
    return Steps(*(round(float(value), 4) for value in np.quantile(steps, [0.05, 0.5, 0.95])))


def trained_of(place: str | Location) -> Trained:
    """Return what a checkpoint (a file, a run, an export, a Hub name) says about its training.

    Raises:
        CheckpointError, HubError: as `files.find`.
    """
    location = find(place)
    said = provenance_of(location).get("trained")
    said = said if isinstance(said, Mapping) else {}
    run = _config_of_run(location)
    size, backbone = said.get("size") or run.get("size"), run.get("backbone") or said.get("backbone")
    backbone = backbone if isinstance(backbone, str) else None
    folder = split(backbone).place if backbone else None
    return Trained(
        size=_size_said(size),
        steps=_steps_said(said.get("step_seconds")),
        backbone=backbone if folder and (is_hub_name(folder) or Path(folder).is_dir()) else None,
    )


def _size_said(said: object) -> FrameSize | None:
    """Return the size that a header or a run's settings give; None for anything else."""
    try:
        size = FrameSize.of(said)
    except ValueError:
        return None
    return size if size.value == said else None  # as it is written: no text for a square


def _steps_said(said: object) -> Steps | None:
    """Return the steps that a header gives as three numbers; None for anything else."""
    match said:
        case [int() | float() as least, int() | float() as middle, int() | float() as most]:
            if 0 < least <= middle <= most < math.inf:
                return Steps(float(least), float(middle), float(most))
    return None


def as_trained(
    config: ConfigT, networks: Sequence[tuple[str, str | None]], say: Callable[[str], None]
) -> tuple[ConfigT, Steps | None]:
    """Return the config with the size and the backbone of the networks' training, if they were not set.

    `networks` are names of options and their checkpoints, those that count first at the beginning. Also returns the
    steps between frames that the first of them that knows was trained on. `say` is told which size was taken, and why.
    """
    given = [(f"--{option} {place}", trained_of(place)) for option, place in networks if place]
    facts = [fact for name, trained in given for fact in trained.facts(name)]
    if not is_set(config, "size"):
        size = next((fact for fact in facts if fact.setting == "size"), None)
        say(
            f"frames of {value_of(config, 'size')} px, the default: no network says at which size it was trained"
            if size is None
            else f"frames of {size.value} px, as in {size.source}"
        )
    return follow(config, facts)[0], next((trained.steps for _, trained in given if trained.steps is not None), None)


def provenance_of(location: Location) -> Mapping[str, Any]:
    """Return what the header of a checkpoint file says; the file is read whole, and once for as long as it stays."""
    if not location.is_local:
        return read_contents(location).provenance
    status = location.path.stat()
    return _provenance_of(str(location), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _provenance_of(place: str, written: int, size: int) -> Mapping[str, Any]:  # noqa: ARG001 (they tell files apart)
    return read_contents(place).provenance


def _config_of_run(checkpoint: Location) -> Mapping[str, Any]:
    """Return the settings of the run that a checkpoint lies in; none if it lies elsewhere."""
    if checkpoint.parent.name != FOLDER:
        return {}
    place = checkpoint.parent.parent / RUN_CONFIG
    try:
        return read_yaml_mapping(place.read_bytes(), str(place))
    except (FileNotFoundError, ConfigError):
        return {}


def mismatched_checkpoints(
    places: Iterable[tuple[str, str | None]], here: Mapping[str, str | None], size: FrameSize | None = None
) -> list[str]:
    """Return a sentence for each way in which a checkpoint was trained unlike what it is used with.

    `places` are names of options and their checkpoints; `here` maps `backbone` and `tokenizer` to content hashes;
    `size` is that of the frames. Widths may agree all the same, and results then look like those of a bad network.
    Published weights do not say.

    Raises:
        CheckpointError: one was trained behind another backbone; what it makes of these features means nothing.
    """
    notes = []
    for option, place in places:
        provenance = provenance_of(find(place)) if place else {}
        frozen, trained = provenance.get("frozen"), provenance.get("trained")
        for name, hash_there in frozen.items() if isinstance(frozen, Mapping) else ():
            if here.get(name) in (None, hash_there):
                continue
            wrong = (
                f"--{option} {place} was trained behind another {name} (content hash {hash_told(str(hash_there))}) "
                f"than the one it is used with ({hash_told(str(here[name]))})"
            )
            if name == "backbone":
                raise CheckpointError(
                    f"{wrong}; leave --backbone and --layers out, or name networks and features that belong together"
                )
            notes.append(f"{wrong}; its results mean little")
        size_there = _size_said(trained.get("size")) if isinstance(trained, Mapping) else None
        if None not in (size, size_there) and size != size_there:
            notes.append(
                f"--{option} {place} was trained at {size_there} px, and is used at {size} px; its results mean little"
            )
    return notes
