"""What a probe is fitted on and what it is tested on, before any clip is read.

Takes open stores and settings, returns which of their clips train and which are told, or says what is wrong.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from deltactl.artifacts import Identity, canonical_json
from deltactl.errors import ConfigError
from deltactl.evaluate.probe.labels import Labelled, check_classes, check_known, hold_out, labelled
from deltactl.evaluate.probe.saved import Probe, facts_for, read_probe
from deltactl.evaluate.probe.vectors import DEFAULT_POOLING
from deltactl.featurize.store.reader import ClipStore
from deltactl.progress import counted
from deltactl.train.data.left_out import LeftOut
from deltactl.train.data.sets import disagreement

log = logging.getLogger(__name__)

KIND = "probe"
LEAST_L2 = 1e-9
"""Below it the rounding of float64 is all that holds weights of entries that depend on each other."""
FEW_VIDEOS = 20
"""Videos that are told below which a warning says that the interval is wide."""


@dataclass(frozen=True)
class Settings:
    """What is probed, and how."""

    label: str = "clip.class"
    """Column of the classes."""
    test: str | None = None
    """A store of other clips to test on; None: some of the videos are held out."""
    held_out: float = 0.2
    """Share of the videos."""
    seed: int = 0
    """Draws the videos that are held out; 0 draws those that training holds out."""
    pooling: str | None = None
    """One of `vectors.POOLINGS`; None: by what the store holds."""
    view: int | None = None
    """None: all views."""
    where: str | None = None
    """File of clips to leave out."""
    l2: float | None = None
    """Strength of the penalty, above 0; None: chosen."""
    probe: str | None = None
    """Place of a probe to apply, in place of fitting one."""
    device: str = "auto"
    """Where it is fitted."""


@dataclass(frozen=True)
class Clips:
    """Some of the labelled clips of a store, each under each view: n of N samples, C classes."""

    store: ClipStore
    found: Labelled
    numbers: Int64[np.ndarray, " n"]
    """Which of those that were found."""
    classes: tuple[str, ...]

    @cached_property
    def truth(self) -> Int64[np.ndarray, " n"]:
        """The number of each one's class."""
        number = {name: each for each, name in enumerate(self.classes)}
        return np.array([number[self.found.labels[each]] for each in self.numbers.tolist()], np.int64)

    @cached_property
    def videos(self) -> tuple[str, ...]:
        """The name of each one's video."""
        return tuple(self.found.videos[each] for each in self.numbers.tolist())

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each one's clip."""
        keys = self.store.keys
        return tuple(keys[sample] for sample in self.found.samples[self.numbers].tolist())

    @cached_property
    def views(self) -> Int64[np.ndarray, " n"]:
        """The number of each one's view."""
        return np.asarray(self.store.origins[0][self.found.samples[self.numbers]], np.int64)

    def videos_of_classes(self) -> Int64[np.ndarray, " C"]:
        """Return how many videos there are of each class."""
        pairs = set(zip(self.videos, self.truth.tolist(), strict=True))
        return np.bincount([number for _, number in pairs], minlength=len(self.classes))

    def to_json(self) -> dict[str, Any]:
        """Return how many there are."""
        return {"videos": len(set(self.videos)), "clips": len(set(self.keys)), "samples": len(self.numbers)}


@dataclass(frozen=True)
class Plan:
    """What is fitted, what is told, and with what."""

    trains: Clips | None
    """None where a probe is applied."""
    tests: Clips
    label: str
    pooling: str
    probe: Probe | None
    """The one that is applied."""
    identity: Identity


def plan(stores: Sequence[ClipStore], settings: Settings) -> Plan:
    """Return what will be done with a store, or with one to train on and one to test on.

    Raises:
        CheckpointError: there is no such probe.
        ConfigError: the stores have no such labels, or do not fit each other, or no video can be held out.
        DamagedError: bytes of them are damaged.
    """
    _check_numbers(settings)
    left_out = LeftOut.read(settings.where)
    left_out.check(settings.where, stores)
    probe = None if settings.probe is None else read_probe(settings.probe)
    label = settings.label if probe is None else probe.label
    pooling = probe.pooling if probe is not None else settings.pooling or DEFAULT_POOLING[stores[0].kind]
    found = [labelled(store, label, left_out.keys) for store in stores]
    if probe is not None:
        trains, tests = None, _all(stores[0], found[0], probe.classes)
        _check_facts(probe.facts, stores[0], pooling, f"what {settings.probe} was fitted on")
        if probe.store == stores[0].identity.hash():
            log.warning("%s was fitted on clips of this store, and tells those better than others", settings.probe)
    else:
        check_classes(stores[0].root, label, found[0])
        classes = found[0].classes
        if len(stores) == 1:
            trains, tests = _divided(stores[0], found[0], classes, settings)
        else:
            trains, tests = (_all(store, each, classes) for store, each in zip(stores, found, strict=True))
            _check_facts(facts_for(stores[0], pooling), stores[1], pooling, str(stores[0].root))
    check_known(tests.store.root, label, tests.found, tests.classes)
    if trains is not None and trains.store is not tests.store:
        _warn_of_common(trains, tests)
    if (told := len(set(tests.videos))) < FEW_VIDEOS:
        log.warning("the accuracy is that of %s: its interval is wide", counted(told, "videos"))
    identity = _identity(stores, settings, label, pooling, left_out, probe)
    return Plan(trains, tests, label, pooling, probe, identity)


def said_of(store: ClipStore) -> dict[str, str]:
    """Return what tells a store's content, under the views that it is opened with, from others."""
    groups = hashlib.sha256(canonical_json(store.group_hashes())).hexdigest()
    return {"kind": store.kind, "identity_sha256": store.identity.hash(), "groups_sha256": groups}


def _check_numbers(settings: Settings) -> None:
    if not 0 < settings.held_out < 1:
        raise ConfigError(f"--held-out is {settings.held_out}; expected a share between 0 and 1")
    if settings.l2 is not None and not LEAST_L2 <= settings.l2 < math.inf:
        raise ConfigError(f"--l2 is {settings.l2}; expected a number of at least {LEAST_L2:g}")


def _all(store: ClipStore, found: Labelled, classes: tuple[str, ...]) -> Clips:
    return Clips(store, found, np.arange(len(found)), classes)


def _divided(store: ClipStore, found: Labelled, classes: tuple[str, ...], settings: Settings) -> tuple[Clips, Clips]:
    """Return the clips that train, and those of the videos that are held out."""
    salt = "" if settings.seed == 0 else f"{settings.seed}:"
    held = hold_out(found.videos, found.labels, settings.held_out, salt)
    if not held.any():
        videos, names = counted(len(set(found.videos)), "videos"), counted(len(classes), "classes")
        raise ConfigError(
            f"{store.root}: none of its {videos} of {names} of {settings.label} can be held out, since each class "
            "needs one to train on; take more videos, or name other ones with --test"
        )
    trains, tests = (Clips(store, found, np.flatnonzero(mask), classes) for mask in (~held, held))
    return trains, tests


def _check_facts(facts: Mapping[str, Any], store: ClipStore, pooling: str, other: str) -> None:
    """Check that clips of a store are what others are, by the networks that they came from."""
    if (said := disagreement(facts, facts_for(store, pooling))) is not None:
        raise ConfigError(
            f"{other} and {store.root} do not go together: {said}; a probe is tested on what came of the same "
            "networks: make one of them anew, or name another one"
        )


def _warn_of_common(trains: Clips, tests: Clips) -> None:
    if common := set(trains.videos) & set(tests.videos):
        log.warning(
            "%s have the same name in both stores, such as %s; where they are the same, the probe is tested on what it "
            "was fitted on",
            counted(len(common), "videos"),
            min(common),
        )


def _identity(
    stores: Sequence[ClipStore],
    settings: Settings,
    label: str,
    pooling: str,
    left_out: LeftOut,
    probe: Probe | None,
) -> Identity:
    """Return what decides the figures."""
    values: dict[str, Any] = {"store": said_of(stores[0]), "label": label, "pooling": pooling, "view": settings.view}
    if left_out.digest is not None:
        values["where"] = left_out.digest
    if probe is not None:
        return Identity(KIND, {**values, "probe": probe.content_hash})
    tested = {"held_out": settings.held_out} if len(stores) == 1 else {"test": said_of(stores[1])}
    return Identity(KIND, {**values, **tested, "seed": settings.seed, "l2": settings.l2})
